"""The catalogue: which files make up each source, where they are and how to recognise them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from mtlpar.core.files import read_text
from mtlpar.core.settings import Settings

FileKind = Literal["data", "sidecar", "document", "listing", "by_hand"]


class CatalogueRow(Settings):
    """One line of the catalogue: a file, or a folder whose listing names the files.

    ``url`` has one address or several, separated by spaces, which are tried in order. A ``listing``
    row has the URL of a folder; its ``file`` is the pattern of the names to take. A ``sidecar`` is
    needed to read the data; a ``document`` explains them and is not fetched; what is ``by_hand``
    has to be unpacked or converted, and is left to the user.
    """

    source: str = Field(min_length=1)
    file: str = Field(min_length=1)
    url: str = Field(pattern=r"^https?://\S+( https?://\S+)*$")
    bytes: int | None = Field(gt=0)
    md5: str | None = Field(pattern=r"^[0-9a-f]{32}$")
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str = Field(min_length=1)
    doi: str = Field(pattern=r"^10\.\S+$")
    citation: str = Field(min_length=1)
    level_of_theory: str = Field(min_length=1)
    kind: FileKind

    @field_validator("kind")
    @classmethod
    def _a_listing_is_of_one_folder(cls, kind: FileKind, info: ValidationInfo) -> FileKind:
        url = info.data.get("url", "")
        if kind == "listing" and (" " in url or not url.endswith("/")):
            raise ValueError(f"needs the URL of one folder, ending in '/', not {url}")
        return kind

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, the preferred one first."""
        return tuple(self.url.split())

    @property
    def contents(self) -> str:
        """Everything that says which bytes come, in one line."""
        known = (self.md5, self.sha256) if self.md5 or self.sha256 else (self.urls[0],)
        return " ".join(map(str, (self.kind, self.file, self.bytes, *known)))

    @field_validator("bytes", "md5", "sha256", mode="before")
    @classmethod
    def _empty_is_unknown(cls, value: Any) -> Any:
        return None if value == "" else value


def read_catalogue(path: Path) -> list[CatalogueRow]:
    """Read and validate the catalogue.

    Raises:
        ValueError: If the file is missing or any row is wrong; all bad rows are named by line.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; the catalogue of raw files is workflow/sources.csv")
    columns = list(CatalogueRow.model_fields)
    rows: list[CatalogueRow] = []
    problems: list[str] = []
    first_line: dict[tuple[str, str], int] = {}
    stream = io.StringIO(read_text(path), newline="")
    reader = csv.DictReader(stream, restkey="more cells than columns")
    if reader.fieldnames != columns:
        raise ValueError(
            f"{path} has the columns {reader.fieldnames}, expected {','.join(columns)}"
        )
    for cells in reader:
        line = reader.line_num
        try:
            row = CatalogueRow.model_validate(cells)
        except ValidationError as error:
            problems += [f"line {line}: {text}" for text in _problems(error)]
            continue
        known = first_line.setdefault((row.source, row.file), line)
        if known != line:
            problems.append(f"line {line}: {row.source} {row.file} is on line {known} already")
        rows.append(row)
    if problems:
        raise ValueError(f"{path} has {len(problems)} mistakes:\n  " + "\n  ".join(problems))
    return rows


def _problems(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} (got {item['input']!r})"
        for item in error.errors()
    ]
