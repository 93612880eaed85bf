"""Every page says for whom it is and where to go next: nobody ends in a dead end."""

from __future__ import annotations

import re

import pytest
from helpers import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(str(path.relative_to(REPOSITORY)) for path in DOCS.rglob("*.md"))
PAGES += ["CONTRIBUTING.md", "profiles/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_for_whom_it_is_and_leads_on(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    title, _, rest = text.partition("\n\n")
    assert title.startswith("# ")
    assert rest.startswith("*For everybody ")
    assert re.search(r"^Next: .*\]\(", text.rstrip().rpartition("\n\n")[2], re.DOTALL)


def test_every_page_is_in_the_navigation():
    # MkDocs warns of the other way round only: a page that no menu shows is found by nobody.
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    missing = [page for page in PAGES if page.startswith("docs/") and page[5:] not in navigation]
    assert not missing
