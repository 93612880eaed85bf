"""Hooks of MkDocs: generated pages, and pages that live elsewhere in the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

import command_pages
import settings_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]

ELSEWHERE: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "profiles/README.md": "profiles.md",
    "workflow/sample/README.md": "sample.md",
}
"""Files outside of docs/ and the pages that show them."""

_CODE: Final = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)

_LINK: Final = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[#)])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    for name, content in settings_pages.pages().items():
        _add(files, config, f"reference/settings/{name}.md", content)
    _add(files, config, "reference/commands.md", command_pages.page())
    for path, name in ELSEWHERE.items():
        _add(files, config, name, (ROOT / path).read_text(encoding="utf-8"))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links between docs/ and the rest of the repository, as they work there, work here."""
    here = next(
        (path for path, name in ELSEWHERE.items() if name == page.file.src_uri),
        f"docs/{page.file.src_uri}",
    )

    def resolve(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[1]))
        name = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")

    markdown = _LINK.sub(resolve, markdown)
    is_prose = not page.file.src_uri.startswith(("reference/", "changelog"))
    return _with_references(markdown, page.file.src_uri) if is_prose else markdown


def _with_references(markdown: str, page: str) -> str:
    """Let the first mention of each setting and command on a page lead to the reference."""
    targets = {
        setting.key: f"reference/settings/{setting.page}.md#{setting.key}"
        for setting in settings_pages.all_settings()
        if "." in setting.key
    }
    targets |= {
        name: f"reference/commands.md#{name.replace(' ', '-')}"
        for name in command_pages.commands()
        if " " in name
    }

    def link(found: re.Match[str]) -> str:
        code = found[0]
        before = markdown[: found.start()].rpartition("\n")[2]
        if code.lstrip().startswith("```") or before.startswith("#") or before.endswith("["):
            return code
        target = targets.pop(code.strip("`").partition(":")[0], None)
        if target is None:
            return code
        return f"[{code}]({posixpath.relpath(target, posixpath.dirname(page) or '.')})"

    return _CODE.sub(link, markdown)


def _add(files: Files, config: MkDocsConfig, name: str, content: str) -> None:
    files.append(File.generated(config, name, content=content))
