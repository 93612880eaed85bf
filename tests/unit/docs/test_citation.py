"""What says how to cite the software says it of this version."""

from __future__ import annotations

import yaml
from helpers import REPOSITORY

import mtlpar


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mtlpar.__version__
    assert citation["references"][0]["url"] in (REPOSITORY / "README.md").read_text("utf-8")
