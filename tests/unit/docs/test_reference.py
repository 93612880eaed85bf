"""The generated reference shows everything there is: a page that leaves out a setting lies."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys

import pytest
from helpers import REPOSITORY

from mtlpar.cli import build_parser
from mtlpar.config import json_schema


def load(name):
    """Import a generator, which lies in no package."""
    path = REPOSITORY / "tools" / "docs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up the module that defines them.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


settings_pages = load("settings_pages")
command_pages = load("command_pages")


def keys_of_schema(node, definitions, above=""):
    """Dotted keys that the JSON schema allows, found without the generator's own walk."""
    node = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    for name, inner in node.get("properties", {}).items():
        yield above + name
        yield from keys_of_schema(inner, definitions, f"{above}{name}.")
    for inner in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from keys_of_schema(inner, definitions, above)
    if isinstance(node.get("additionalProperties"), dict):
        yield from keys_of_schema(node["additionalProperties"], definitions, f"{above}*.")


def test_every_setting_of_the_schema_has_an_entry():
    schema = json_schema()
    blocks = {"paths", "extract.labels", "extract.physics", "study.model"}
    expected = {
        key
        for key in keys_of_schema(schema, schema["$defs"])
        # These have the pages of the blocks that they repeat.
        if not key.startswith(("study.model.", "models.*.model.", "models.*.train."))
    }
    shown = {re.sub(r"\b[A-Z]+\b", "*", one.key) for one in settings_pages.all_settings()}
    assert not shown - expected
    # What is left are blocks, whose keys are shown instead.
    left = expected - shown
    assert all(any(key.startswith(f"{block}.") for key in shown) for block in left), left
    assert blocks - {"study.model"} <= left


def test_each_entry_has_a_text_and_an_anchor_of_its_own():
    settings = settings_pages.all_settings()
    assert len({one.key for one in settings}) == len(settings) > 100
    # "See schedule." and the like send the reader away.
    poor = [one.key for one in settings if len(one.text) < 20 or one.text.startswith("See ")]
    assert not poor
    pages = settings_pages.pages()
    for one in settings:
        assert f"{{ #{one.key} }}" in pages[one.page]
        assert f"({one.page}.md#{one.key})" in pages["index"]


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        ("train.epochs", ("integer", "16", "above 0", "")),
        ("model.graph.cutoff_angstrom", ("number", "5.0", "above 0", "Å")),
        ("train.patience_epochs", ("integer or null", "10", "above 0", "")),
        ("custom_sources.SOURCE.files", ("list of text", None, "", "")),
        (
            "normalize.split",
            (
                "`groups` or `frames` or `blocks` or mapping from names to `groups` or `frames` "
                "or `blocks`",
                "groups",
                "",
                "",
            ),
        ),
        ("paths.raw", ("path", "data/raw", "", "")),
    ],
)
def test_type_default_limits_and_unit_are_in_words(key, facts):
    (one,) = (one for one in settings_pages.all_settings() if one.key == key)
    assert (one.kind, one.default, one.limits, one.unit) == facts


def all_parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from all_parsers(inner)


def test_every_command_and_option_is_on_the_page():
    page = command_pages.page()
    for parser in all_parsers(build_parser()):
        assert f"`{parser.prog}`" in page
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and action.dest != "help":
                assert all(option in page for option in action.option_strings)


def test_no_placeholder_of_a_help_text_is_left():
    # argparse fills in defaults when it prints; a page made from the raw texts would show these.
    assert "%(" not in command_pages.page()
