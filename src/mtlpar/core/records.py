"""Records: JSON files that stages write for other stages, each with one type and one reader.

A record never changes and knows all its keys. One that was cut off, edited by hand or written by
another version is an error that names the file and the key, before anything is computed with it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from ase.data import atomic_numbers
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mtlpar.core.files import read_bytes, read_json, write_json
from mtlpar.core.hashing import json_digest

logger = logging.getLogger(__name__)

_SHOWN_CHARACTERS: Final = 60
T = TypeVar("T", bound="Record")


class Record(BaseModel):
    """A block of a record: frozen, with all keys known, exact types and finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def plain(self) -> dict[str, Any]:
        """Content as plain values, in the order of the keys."""
        return self.model_dump(mode="json")

    def given(self) -> dict[str, Any]:
        """Content as it stands in its file, without keys that the file lacks."""
        return self.model_dump(mode="json", exclude_unset=True)


class DigestedRecord(Record):
    """A record whose numbers other stages believe: it carries a digest of all its other keys."""

    digest: str

    def digest_of_content(self) -> str:
        """What the digest of this content is."""
        return json_digest(self.model_dump(mode="json", exclude={"digest"}, exclude_unset=True))

    @property
    def is_as_written(self) -> bool:
        """Whether the digest is that of the content; a kind with a default may do without."""
        return "digest" not in self.model_fields_set or self.digest == self.digest_of_content()


def _known_symbol(symbol: str) -> str:
    if atomic_numbers.get(symbol, 0) == 0:
        raise ValueError("expected the symbol of a chemical element")
    return symbol


LARGEST: Final = 1e100
"""No quantity is larger, and its square is still a number."""

Count = Annotated[int, Field(ge=0)]
"""How many of something there are."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""Hexadecimal SHA-256."""

Symbol = Annotated[str, AfterValidator(_known_symbol)]
"""Symbol of a chemical element."""


def read_record(
    path: Path,
    kind: type[T],
    *,
    stage: str | None = None,
    expected: Mapping[str, object] | None = None,
) -> T:
    """Read a record that another stage wrote.

    Args:
        path: The file.
        kind: What it is a record of.
        stage: The command that writes it.
        expected: Values by key of a record that lies at this path; see `check_expected`.

    Raises:
        ValueError: If the file is missing, is not JSON, has another shape or belongs elsewhere; the
            message names the file, the key and the stage to run.
    """
    content = read_bytes(path, stage=stage)
    advice = f"run mtlpar {stage} again" if stage else "run the stage that writes it again"
    record = parse_record(content, kind, where=str(path), advice=advice)
    check_expected(record, expected or {}, where=str(path), advice=advice)
    return record


def check_expected(
    record: Record, expected: Mapping[str, object], *, where: str, advice: str
) -> None:
    """Refuse a sound record that lies where another one belongs, such as a copy under a wrong name.

    Args:
        record: The record.
        expected: Values that it should have, by key.
        where: Where it comes from, for messages.
        advice: What to do if it is wrong.

    Raises:
        ValueError: If it has another value under some key.
    """
    for key, value in expected.items():
        if (found := getattr(record, key)) != value:
            raise ValueError(
                f"{where}: {key} is {_shown(found)}, expected {_shown(value)}: it belongs "
                f"elsewhere; {advice}"
            )


def parse_record(content: bytes | str, kind: type[T], *, where: str, advice: str) -> T:
    """Make a record from its JSON text.

    Args:
        content: The text.
        kind: What it is a record of.
        where: Where it comes from, for messages.
        advice: What to do if it is wrong.

    Raises:
        ValueError: If the text is not JSON or has another shape.
    """
    try:
        record = kind.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{where}{_explain(error)}; {advice}") from None
    if isinstance(record, DigestedRecord) and not record.is_as_written:
        raise ValueError(
            f"{where} is damaged or was edited by hand: its digest is "
            f"{_shown(record.digest)}, expected {record.digest_of_content()!r}; {advice}"
        )
    return record


def write_record(path: Path, record: Record) -> None:
    """Write a record as readable JSON; it appears only when whole."""
    write_json(path, record.plain())


def write_content(path: Path, kind: type[Record], content: Mapping[str, Any]) -> None:
    """Write plain values as a record; what its readers would refuse is a fault of the writer.

    Raises:
        ValidationError: If the content has another shape.
    """
    if issubclass(kind, DigestedRecord):
        without = kind.model_validate_json(json.dumps({**content, "digest": ""}))
        content = {**content, "digest": without.digest_of_content()}
    kind.model_validate_json(json.dumps(content))
    write_json(path, content)


def write_digested(path: Path, content: Mapping[str, Any]) -> None:
    """Write what only the same stage reads again, with a digest of it."""
    write_json(path, {"content": content, "digest": json_digest(content)})


def read_digested(path: Path) -> dict[str, Any] | None:
    """Read what `write_digested` wrote; None if it is not there, damaged or edited.

    Such a file says what need not be done again: without it, it is done again.
    """
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        content = found["content"]
        is_sound = json_digest(content) == found["digest"] and isinstance(content, dict)
    except (ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        logger.warning("%s is damaged or of another version, and ignored", path)
        return None
    return dict(content)


def _explain(error: ValidationError) -> str:
    """What is wrong first; of another version everything else may be wrong too."""
    errors = error.errors(include_url=False)
    first = next((one for one in errors if "version" in str(one["loc"][-1:])), errors[0])
    if first["type"] == "json_invalid":
        return f" is not valid JSON ({first['msg'].removeprefix('Invalid JSON: ')})"
    key = ".".join(str(part) for part in first["loc"])
    place = f": {key}" if key else ""
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] == "extra_forbidden":
        return f"{place} is not a known key"
    expected = re.sub(r"^(Input should be|Value error,) ", "", first["msg"])
    expected = expected if expected.startswith("expected") else f"expected {expected}"
    return f"{place} is {_shown(first['input'])}, {expected}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
