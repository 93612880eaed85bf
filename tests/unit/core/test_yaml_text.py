"""YAML by libyaml says what PyYAML's own code says."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import yaml
from helpers import REPOSITORY

from mtlpar.core.yaml_text import compose_yaml, dump_yaml, load_yaml


def test_it_reads_and_writes_as_pyyaml_does() -> None:
    text = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")
    # Besides a whole configuration: what must be quoted, and what must not be escaped.
    content = {**yaml.safe_load(text), "Å": ["yes", "1e3", 1e-3, None, "", "a: b", "x " * 60]}
    written = dump_yaml(content)
    assert written == yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    assert load_yaml(written) == content


@pytest.mark.parametrize("read", [load_yaml, compose_yaml])
def test_an_error_shows_the_place(read: Callable[[str], object]) -> None:
    with pytest.raises(yaml.YAMLError, match=r"line 2, column 9:\n    epochs: \[1"):
        read("train:\nepochs: [1")


def test_there_is_one_way_to_read_and_write_configurations() -> None:
    # Two would one day differ in what they take for a number or a word.
    files = [
        path
        for folder in ("src", "benchmarks", "tools")
        for path in (REPOSITORY / folder).rglob("*.py")
        if path.name not in ("yaml_text.py", "settings_pages.py")
    ]
    assert len(files) > 400
    using = [
        str(path)
        for path in files
        if re.search(r"^[^\"'\n]*\byaml\.(safe_)?(load|dump)\(", path.read_text("utf-8"), re.M)
    ]
    assert using == []
