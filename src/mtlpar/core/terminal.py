"""Text for terminals and logs that are not in UTF-8: what they lack is written in ASCII."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata
from typing import Final

_HANDLER: Final = "mtlpar.ascii"
_EIGHTHS: Final = dict(zip("▁▂▃▄▅▆▇█", "_.,-=+*#", strict=True))
_LINES: Final = {"─": "-", "━": "-", "│": "|", "┃": "|"}
_SIGNS: Final = {
    "×": "x", "·": ".", "–": "-", "—": "-", "−": "-", "…": "...", "±": "+-", "µ": "u", "Σ": "sum",
    "π": "pi", "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip
_REPLACED: Final = {**_EIGHTHS, **_LINES, **_SIGNS}
_BLANK_BRAILLE: Final = "\u2800"


def speak_ascii() -> None:
    """Let standard output and error replace what their encoding lacks, whatever prints it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def in_ascii(text: str) -> str:
    """Text with something like it for each character that is not ASCII.

    Letters lose their accents, lines of boxes and dots of plots stay what they show in as many
    columns, and what is like nothing is a question mark.
    """
    return "".join(character if character.isascii() else _like(character) for character in text)


def _like(character: str) -> str:
    if character in _REPLACED:
        return _REPLACED[character]
    name = unicodedata.name(character, "")
    if name.startswith("BRAILLE"):
        return " " if character == _BLANK_BRAILLE else "*"
    if name.startswith("BOX DRAWINGS"):
        return "+"
    if name.startswith("BLOCK") or "BLOCK" in name or "QUADRANT" in name:
        return "#"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _replace)
