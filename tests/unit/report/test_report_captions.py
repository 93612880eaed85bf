"""Every item has a caption that Snakemake can render."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mtlpar.core.yaml_text import load_yaml
from mtlpar.report.items import ITEMS

ROOT = Path(__file__).parents[3]
CAPTIONS = ROOT / "workflow" / "report"


@pytest.mark.parametrize("name", ["workflow", *ITEMS])
def test_caption_renders_without_a_warning(name: str) -> None:
    jinja2 = pytest.importorskip("jinja2")
    core = pytest.importorskip("docutils.core")
    config = load_yaml((ROOT / "config.yaml").read_text(encoding="utf-8"))
    template = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string((CAPTIONS / f"{name}.rst").read_text(encoding="utf-8"))

    text = template.render(snakemake=SimpleNamespace(config=config))
    document = core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})

    assert len(document.astext()) > 200


def test_no_caption_is_left_over() -> None:
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == {"workflow", *ITEMS}
