"""Settings of the download stage."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field, field_validator

from mtlpar.core.settings import Settings

CATALOGUE: Final = "catalogue"
"""The word among the mirrors that stands for the addresses of the catalogue."""


def is_url(address: str) -> bool:
    """Whether an address is fetched over HTTP; anything else is a path."""
    return address.startswith(("http://", "https://"))


class DownloadSettings(Settings):
    """Where raw files come from."""

    mirrors: tuple[str, ...] = Field(
        default=(CATALOGUE,),
        min_length=1,
        description="Places to take native files from, tried in this order: folders, http(s) "
        "URLs, and the word 'catalogue', which stands for the addresses in "
        "paths.catalogue. Folders and URLs hold files under their own names, all in "
        "one or in a folder per source. With 'catalogue' in the list the catalogue "
        "says which files there are and what they contain; without it the first "
        "place does.",
    )
    connections_per_host: int = Field(
        default=4, ge=1, le=16, description="Files to fetch from one server at the same time."
    )
    retries: int = Field(
        default=5,
        ge=0,
        description="Further attempts after a transfer that failed and got no further.",
    )
    timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds without a byte after which a transfer is retried."
    )

    @field_validator("mirrors", mode="before")
    @classmethod
    def _one_place_needs_no_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
