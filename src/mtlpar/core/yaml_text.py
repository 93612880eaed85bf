"""YAML by libyaml, ten times as fast as PyYAML's own code.

Every job reads the whole configuration, writes it down and makes a digest of it.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

# Missing where PyYAML was built without libyaml.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def load_yaml(text: str) -> Any:
    """Content of a document.

    Raises:
        yaml.YAMLError: If it is none; shows the place.
    """
    try:
        return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError:
        # Its errors quote the line.
        return yaml.safe_load(text)


def compose_yaml(text: str) -> yaml.Node | None:
    """Nodes of a document, which know their lines; None if it is empty.

    Raises:
        yaml.YAMLError: If it is none; shows the place.
    """
    try:
        return yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError:
        return yaml.compose(text, Loader=yaml.SafeLoader)


def dump_yaml(content: Any) -> str:
    """A document of plain values, with keys in their order."""
    text: str = yaml.dump(content, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    return text
