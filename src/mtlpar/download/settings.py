"""Settings of the download stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DownloadSettings(BaseModel):
    """Where raw files come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mirror: str | None = Field(
        default=None,
        description="Folder or http(s) URL that holds the native files under their own names, flat "
        "or in a folder per source, used instead of the catalogue's URLs. Checksums then come from "
        "its checksums.txt, if there is one.",
    )
    retries: int = Field(default=5, ge=0, description="Further attempts after a failed transfer.")
    timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds without a byte after which a transfer is retried."
    )
