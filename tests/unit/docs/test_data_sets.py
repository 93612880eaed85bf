"""The page of data sets says what the tables and blocks say."""

from __future__ import annotations

import csv
import re

from helpers import REPOSITORY

from mtlpar.config.load import load_config
from mtlpar.core.yaml_text import load_yaml
from mtlpar.plan.workload import DATASET_SIZES
from mtlpar.sources.registry import packaged_names

PAGE = (REPOSITORY / "docs/data_sets.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\| `.*\|$", PAGE, re.M)
]
BLOCKS = {
    path.stem: load_yaml(path.read_text())["custom_sources"][path.stem]
    for path in (REPOSITORY / "workflow/catalogue").glob("*.yaml")
}


def rows_of(path):
    with (REPOSITORY / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_set_with_a_size_is_on_the_page_with_its_count():
    sizes = {row["source"]: f"{int(row['structures']):,}" for row in rows_of(DATASET_SIZES)}
    assert {row[0].strip("`"): row[2] for row in ROWS} == sizes


def test_levels_and_licences_are_those_of_the_catalogue():
    found = {row["source"]: row for row in rows_of("workflow/sources.csv")}
    for name, _, _, level, _, licence in ((row[0].strip("`"), *row[1:]) for row in ROWS):
        if name == "ani1ccx":
            continue  # in the file of ani1x
        assert (level, licence) == (found[name]["level_of_theory"], found[name]["licence"])


def test_sets_are_read_as_the_page_says():
    for name, how, *_ in ((row[0].strip("`"), *row[1:]) for row in ROWS):
        assert (name in BLOCKS) == how.startswith("block")
        assert (name in packaged_names()) == how.startswith("reader")


def test_groups_that_are_like_those_of_another_source_are_named():
    for name, groups in ((row[0].strip("`"), row[4]) for row in ROWS):
        if name in BLOCKS:
            like = BLOCKS[name].get("groups_like")
            assert ("as `" in groups) == (like is not None)
            assert like is None or f"as `{like}`" in groups


def test_the_configurations_of_the_page_are_valid(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 2
    for text in blocks:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        names = load_yaml(text).get("custom_sources", {})
        over = [REPOSITORY / f"workflow/catalogue/{name}.yaml" for name in names]
        assert load_config([path, *over]).sources
