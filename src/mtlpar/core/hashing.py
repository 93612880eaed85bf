"""Hashes that mean the same on every machine, for any number of processes, in any order."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def name_hash(*parts: str) -> int:
    """64-bit hash of a name given in parts, for instance ``name_hash("mptrj", "mp-1234")``."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def derive_seed(seed: int, *names: str | int) -> int:
    """Seed for one purpose, derived from the run's only seed and a name.

    Two purposes never share a stream, and adding a purpose does not change the others.
    """
    return name_hash(str(seed), *(str(name) for name in names)) & 0x7FFF_FFFF_FFFF_FFFF


def json_digest(content: Any) -> str:
    """SHA-256 of plain values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def mix64(words: UInt64Array) -> UInt64Array:
    """Scramble each 64-bit word (the splitmix64 finaliser, Steele et al. 2014)."""
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def uniform_from_hash(hashes: UInt64Array) -> npt.NDArray[np.float64]:
    """Map 64-bit hashes to numbers in [0, 1)."""
    return (mix64(hashes) >> np.uint64(11)).astype(np.float64) / float(1 << 53)
