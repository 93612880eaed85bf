"""Links that the site makes: what MkDocs cannot see, because it sees only the outcome."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
from helpers import REPOSITORY

pytest.importorskip("mkdocs", reason="make install brings it (extra docs)")


@pytest.fixture
def shown(monkeypatch):
    """What a page of the site has for a Markdown text."""
    monkeypatch.syspath_prepend(REPOSITORY / "tools" / "docs")
    hooks = importlib.import_module("hooks")

    def render(markdown, page="model.md"):
        return hooks.on_page_markdown(
            markdown, page=SimpleNamespace(file=SimpleNamespace(src_uri=page))
        )

    return render


def test_the_first_mention_of_a_setting_or_command_is_a_link(shown):
    text = "Set `train.precision: bf16`, see `train.precision`. Then `mtlpar check`."
    assert shown(text) == (
        "Set [`train.precision: bf16`](reference/settings/train.md#train.precision), "
        "see `train.precision`. Then [`mtlpar check`](reference/commands.md#mtlpar-check)."
    )
    assert "(../reference/commands.md#mtlpar-pack)" in shown("`mtlpar pack`", "tutorials/x.md")


@pytest.mark.parametrize(
    "text",
    [
        "```sh\n`mtlpar check`\n```",
        "1. Do:\n\n    ```sh\n    `mtlpar check`\n    ```",
        "## About `mtlpar check`",
        "[`mtlpar check`](packs.md)",
        "`train.precise`",
    ],
    ids=["code", "code in a list", "heading", "link", "no setting"],
)
def test_what_is_no_mention_stays(shown, text):
    assert shown(text) == text


def test_links_that_work_in_the_repository_work_on_the_site(shown):
    assert shown("[a](../profiles/README.md#x)") == "[a](profiles.md#x)"
    assert shown("[a](docs/model.md)", "contributing.md") == "[a](model.md)"
    assert shown("[a](../docs/machines.md)", "profiles.md") == "[a](machines.md)"
    assert shown("[a](https://example.org/docs/x)") == "[a](https://example.org/docs/x)"
