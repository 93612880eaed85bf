"""The maps of the code show the code: a page that names the old place of a module misleads."""

from __future__ import annotations

import re

import pytest
from helpers import REPOSITORY

PACKAGE = REPOSITORY / "src" / "mtlpar"
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def places_of_invariants():
    """Paths in the right column of the table of invariants."""
    table = ARCHITECTURE.partition("## Invariants")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (?!invariant|-)(.*) \|$", table, re.MULTILINE):
        yield from re.findall(r"`([a-z_*/]+(?:\.py|/))", row.rpartition(" | ")[2])


@pytest.mark.parametrize("place", sorted(set(places_of_invariants())))
def test_each_invariant_lives_where_the_page_says(place):
    assert (PACKAGE / place).exists() or (REPOSITORY / place).exists()


def test_the_layers_of_the_page_are_those_that_are_checked():
    test = (REPOSITORY / "tests" / "unit" / "test_architecture.py").read_text(encoding="utf-8")
    checked = re.findall(r'"(\w+)"', re.search(r"^LAYERS = \((.*?)\)", test, re.M | re.S)[1])
    shown = ARCHITECTURE.partition("## Layers")[2].split("```")[1]
    assert re.findall(r"\w+", shown)[: len(checked)] == checked


def test_the_tree_of_the_readme_shows_every_package():
    tree = README.partition("src/mtlpar/\n")[2].partition("\ntests/")[0]
    shown = dict(re.findall(r"^  (\w+(?:\.py)?)(/?) ", tree, re.MULTILINE))
    assert {name for name, slash in shown.items() if slash} == PACKAGES
    assert all((PACKAGE / name).exists() for name in shown)
