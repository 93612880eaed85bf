"""The file of a trained model: written with a digest, read with every check, of any format."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import torch
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from torch import Tensor

from mtlpar.core.files import atomic_path
from mtlpar.core.first_bytes import ZIP, first_bytes, kind_of, unlike
from mtlpar.core.references import References
from mtlpar.core.system_errors import is_of_the_system
from mtlpar.model.digest import DIGEST, content_digest
from mtlpar.model.saved import SavedModel
from mtlpar.model.settings import ModelSettings
from mtlpar.model.uncertainty import BranchUncertainty
from mtlpar.model.undrawn import undrawn_network
from mtlpar.model.upgrades import FORMAT_VERSION, upgraded

logger = logging.getLogger(__name__)

_WITH_DIGEST: Final = 6
# How torch begins a file where it makes no archive: a number, pickled.
_WITHOUT_ARCHIVE: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# Files in archives of torch with code, which a file of weights does not have.
_OF_PROGRAMS: Final = frozenset({"constants.pkl", "archive_format"})
_AGAIN: Final = "copy it again, or export it with mtlpar train"


def save_model(
    path: Path,
    *,
    state: Mapping[str, Tensor],
    settings: ModelSettings,
    branches: Mapping[str, tuple[str, ...]],
    references: Mapping[str, References],
    level_of_theory: Mapping[str, str],
    training: Mapping[str, Any],
    uncertainty: Mapping[str, BranchUncertainty] | None = None,
) -> None:
    """Write a model file atomically, with a digest; it loads with ``weights_only=True``.

    Args:
        path: File to write.
        state: State of a network that holds all branches.
        settings: Its architecture.
        branches: Sources by branch.
        references: Reference energies by source.
        level_of_theory: Level of theory by source.
        training: Plain values that say how the model was trained.
        uncertainty: How far off energies may be, by branch.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "settings": settings.model_dump(mode="json"),
        "branches": {branch: list(sources) for branch, sources in branches.items()},
        "references_ev": {name: dict(refs.energies_ev) for name, refs in references.items()},
        "level_of_theory": dict(level_of_theory),
        "training": dict(training),
        "uncertainty": {name: one.plain() for name, one in (uncertainty or {}).items()},
        "state": {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
    }
    content[DIGEST] = content_digest(content)
    # Into a stream: given a path, torch writes the temporary name into the file.
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> SavedModel:
    """Load a model file that the train stage wrote, of this or an older format.

    Args:
        path: The ``model.pt``.
        device: Where to put the network.
        dtype: ``torch.float32`` or ``torch.float64``; by default that of the weights. In the latter
            forces are smooth enough for tight relaxations and finite differences.

    Raises:
        ValueError: If the file is missing or damaged, is not such a model or has a newer format, or
            if there is no such device or it is another precision.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a model file, such as {path / 'model.pt'}")
    if not path.is_file():
        raise ValueError(f"there is no model at {path}; correct the path, or train it first")
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"a model predicts in torch.float32 or torch.float64, not in {dtype}")
    _check_device(device)
    # Whatever modes the caller has set: of weights made in inference mode there are no gradients,
    # and a default device may be one that holds nothing (meta).
    with torch.inference_mode(False), torch.device("cpu"):
        return _load(path, device, dtype)


def _load(path: Path, device: torch.device | str, dtype: torch.dtype | None) -> SavedModel:
    content = _read(path)
    digest = _checked_digest(content, path)
    content = upgraded(content, path)
    try:
        whole = _ModelFile.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is not a complete model file: {where}: {first['msg']}") from None
    network = undrawn_network(whole.settings, whole.branches)
    try:
        network.load_state_dict(whole.state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit its settings: {error}") from error
    network.to(device=device, dtype=dtype or next(iter(whole.state.values())).dtype)
    network.eval()
    return SavedModel(
        network=network,
        settings=whole.settings,
        branches=whole.branches,
        references={name: References(energies) for name, energies in whole.references_ev.items()},
        level_of_theory=whole.level_of_theory,
        training=whole.training,
        uncertainty=whole.uncertainty,
        format_version=whole.written_as,
        digest=digest,
    )


class _ModelFile(BaseModel):
    """What a file of the current format holds."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    written_as: int
    settings: ModelSettings
    branches: dict[str, tuple[str, ...]] = Field(min_length=1)
    references_ev: dict[str, dict[str, FiniteFloat]]
    level_of_theory: dict[str, str]
    training: dict[str, Any]
    # What earlier versions did not know.
    uncertainty: dict[str, BranchUncertainty] = Field(default_factory=dict)
    state: dict[str, Tensor] = Field(min_length=1)

    @model_validator(mode="after")
    def _knows_every_source(self) -> _ModelFile:
        for source in (source for sources in self.branches.values() for source in sources):
            if not self.references_ev.get(source):
                raise ValueError(f"there are no reference energies of {source}")
            if source not in self.level_of_theory:
                raise ValueError(f"there is no level of theory of {source}")
            foreign = self.references_ev[source].keys() - atomic_numbers.keys()
            if foreign:
                raise ValueError(f"{source} has references of no elements: {sorted(foreign)}")
        return self


def _check_device(device: torch.device | str) -> None:
    """Tell a device that is not there from a file that cannot be read."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"the device {device} cannot be used: {first_line}") from error


def _read(path: Path) -> Any:
    _refuse_foreign(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch would advise to load it all the same, whatever code is in it.
        raise ValueError(
            f"{path} is damaged, or holds more than plain values, as whole modules of other "
            f"programs do; {_AGAIN}"
        ) from error
    # Damaged bytes are instructions of a pickle: there is nothing that they do not raise.
    except Exception as error:
        if is_of_the_system(error):
            raise
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or cut off ({first_line}); {_AGAIN}") from error


def _refuse_foreign(path: Path) -> None:
    """Call what is no model file by its name, where torch has words for none of it.

    Raises:
        ValueError: If it is a pointer, a page, an archive or a program, or begins otherwise.
    """
    head = first_bytes(path)
    if head.startswith(_WITHOUT_ARCHIVE):
        return
    if kind_of(head) != ZIP:
        raise ValueError(f"{path} {unlike(head, 'a model file (model.pt)', _AGAIN)}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    # Damaged bytes are offsets and names.
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or cut off: its end does not say what is in it; {_AGAIN}"
        ) from error
    inside = {PurePosixPath(name).name for name in members}
    if inside & _OF_PROGRAMS:
        raise ValueError(
            f"{path} is a program of TorchScript or torch.export, as mtlpar convert writes them "
            "for engines that run without mtlpar; name the model.pt that it was made of"
        )
    if "data.pkl" not in inside:
        models = [name for name in members if name.endswith(".pt")]
        advice = f"unpack it and name {models[0]}" if models else _AGAIN
        raise ValueError(
            f"{path} is a zip archive of {', '.join(members[:1]) or 'nothing'}, expected a model "
            f"file; {advice}"
        )


def _checked_digest(content: Any, path: Path) -> str | None:
    """Compare what was read with the file's digest, and give that back.

    Raises:
        ValueError: If they differ, or if there is none where there should be.
    """
    if not isinstance(content, dict):
        return None
    expected = content.get(DIGEST)
    if expected is None:
        version = content.get("format_version")
        if isinstance(version, int) and version >= _WITH_DIGEST:
            raise ValueError(f"{path} is damaged: it has no digest; {_AGAIN}")
        if version is not None:
            logger.warning(
                "%s has no digest: an older version of mtlpar wrote it, and damage to its weights "
                "would go unnoticed",
                path,
            )
        return None
    try:
        found = content_digest(content)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {_AGAIN}") from error
    if found != expected:
        raise ValueError(
            f"{path} is damaged or was edited: the digest of its content is {found}, expected "
            f"{expected}; {_AGAIN}"
        )
    return found
