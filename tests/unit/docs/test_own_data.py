"""The pieces of configuration on the page about own data are ones that mtlpar takes."""

import re

import pytest
import yaml
from helpers import REPOSITORY

from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.sources.settings import CustomSource

_PAGE = (REPOSITORY / "docs" / "add_a_source.md").read_text(encoding="utf-8")
_BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", _PAGE, re.S)]


@pytest.mark.parametrize("block", _BLOCKS)
def test_custom_sources_and_splits_of_the_page_are_valid(block):
    described = block.get("custom_sources", {})
    for source in described.values():
        CustomSource(**source)
    if "normalize" in block:
        NormalizeSettings(**block["normalize"])
    assert described or "normalize" in block or "sources" in block


def test_presets_of_the_page_are_those_of_the_code():
    rows = re.findall(
        r"^\| `(\w+)`[^|]*\| (stress|virial)[^|]*\| ([^|]+) \| (\w+) \| ([x-z ]+) \|", _PAGE, re.M
    )
    assert len(rows) == 4
    for preset, *facts in rows:
        label = CustomSource(
            files=("a.xyz",), level_of_theory="X", stress={"key": "s", "preset": preset}
        ).stress_label
        names = ("kind", "unit", "positive", "order")
        assert [label.convention(name) for name in names] == facts
