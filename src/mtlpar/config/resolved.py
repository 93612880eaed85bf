"""The checked configuration as a file, for the stages to read and the records to name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from mtlpar.config.schema import Config
from mtlpar.core.files import write_text
from mtlpar.core.yaml_text import dump_yaml

RESOLVED_CONFIGS: Final = Path(".snakemake", "mtlpar")
"""Where the configurations lie that Snakemake runs with."""


def resolved(config: Config) -> str:
    """The checked configuration as YAML, with all defaults."""
    return dump_yaml(config.model_dump(mode="json"))


def write_resolved(config: Config, folder: Path) -> Path:
    """Write the checked configuration for the stages to read, and return the file.

    Its name is a digest of its content, so runs with different overrides never share a file.
    """
    text = resolved(config)
    path = folder / _name(text.encode())
    if not path.exists():
        write_text(path, text)
    return path


def is_resolved(path: Path) -> bool:
    """Whether a file is a complete configuration as it was written, by its name.

    Laid over another one it would get back what an override took away.
    """
    return path.is_file() and path.name == _name(path.read_bytes())


def _name(content: bytes) -> str:
    return f"config-{hashlib.sha256(content).hexdigest()[:12]}.yaml"
