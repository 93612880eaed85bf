"""Makes the profiles of a checkout known to Snakemake by their bare names."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import write_text
from mtlpar.core.yaml_text import load_yaml

_MARK: Final = "# Written by `mtlpar profiles install`; run it again to change it."
_ACCOUNTS: Final = ("slurm_account", "pbs_account")
_UNEDITED: Final = frozenset({"ABC123", "m0000"})
# Used on every call anyway; see profiles/README.md.
_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Site:
    """What differs between users of one machine.

    Attributes:
        account: Project that pays; None for the one in the profile.
        environment: Folder of the Python environment; None for ``.venv`` of the checkout.
    """

    account: str | None = None
    environment: Path | None = None


def profile_names(checkout: Path) -> list[str]:
    """Profiles of a checkout.

    Raises:
        ValueError: If the folder is no checkout.
    """
    names = sorted(path.parent.name for path in (checkout / "profiles").glob("*/config.yaml"))
    if not names or not (checkout / "Snakefile").is_file():
        raise ValueError(f"{checkout} has no Snakefile or no profiles/; run this in a checkout")
    return [name for name in names if name != _DEFAULT]


def install(checkout: Path, names: Sequence[str], folder: Path, site: Site) -> list[Path]:
    """Write small profiles that refer to those of the checkout.

    With them ``snakemake --profile frontier`` works from any folder below the checkout. An edit of
    the checkout's profile counts at once: the installed one reads it whenever Snakemake starts.

    Args:
        checkout: Where the Snakefile lies.
        names: Profiles to install; all if empty.
        folder: Where Snakemake looks for profiles.
        site: Account and environment.

    Returns:
        The files written.

    Raises:
        ValueError: If there is no such profile, if the user has one of this name already, or if
            no account is given anywhere.
    """
    known = profile_names(checkout)
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no profile is called {', '.join(unknown)}; there are {', '.join(known)}")
    written = []
    for name in names or known:
        path = folder / name / "config.yaml"
        if path.exists() and not path.read_text(encoding="utf-8").startswith(_MARK):
            raise ValueError(f"{path} is a profile of your own; move it away to install {name!r}")
        if names:
            _check_account(checkout, name, site)
        write_text(path, _installed(checkout.resolve(), name, site))
        written.append(path)
    return written


def _check_account(checkout: Path, name: str, site: Site) -> None:
    resources = _content(checkout, name).get("default-resources", {})
    account = site.account or next((resources[key] for key in _ACCOUNTS if key in resources), None)
    if account in _UNEDITED:
        raise ValueError(
            f"profile {name!r} still has the placeholder account {account!r}; give yours: "
            f"mtlpar profiles install {name} --account ..."
        )


def _installed(checkout: Path, name: str, site: Site) -> str:
    source = checkout / "profiles" / name / "config.yaml"
    content = _content(checkout, name)
    # Quoted twice: Snakemake evaluates texts, and takes the account `open` for a function.
    account = repr(str(site.account))
    changes = [
        f'  - profile["default-resources"]["{key}"] = {account!r}'
        for key in _ACCOUNTS
        if site.account and key in content.get("default-resources", {})
    ]
    if site.environment and "precommand" in content:
        setting = f"MTLPAR_ENV={shlex.quote(str(site.environment.resolve()))}; "
        changes.append(f'  - profile["precommand"] = {setting!r} + profile["precommand"]')
    return "\n".join(
        [
            _MARK,
            "__use_yte__: true",
            "__definitions__:",
            "  - import yaml",
            "  - from pathlib import Path",
            f"  - profile = yaml.safe_load(Path({str(source)!r}).read_text())",
            *changes,
            "?for key, value in profile.items():",
            "  ?key: ?value",
            f"snakefile: {json.dumps(str(checkout / 'Snakefile'))}",
            f"directory: {json.dumps(str(checkout))}",
            "",
        ]
    )


def _content(checkout: Path, name: str) -> dict[str, Any]:
    text = (checkout / "profiles" / name / "config.yaml").read_text(encoding="utf-8")
    return dict(load_yaml(text))
