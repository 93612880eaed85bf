"""Array aliases, errors and random streams shared by the sample generator."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SOURCES: Final = ("ani1x", "qm7x", "transition1x", "mptrj", "alexandria")
"""Names of the five sources, which are also the names of their folders."""


class SampleError(ValueError):
    """The sample cannot be generated, and the message says what to do about it."""


class UnusableDrawError(Exception):
    """One candidate structure is unsuitable, and another one is to be drawn instead."""


def random_stream(seed: int, *path: int) -> np.random.Generator:
    """The generator of one place in the sample.

    Every molecule, reaction and material owns a stream, so that its content depends neither
    on how many others are generated nor on the process that generates it.

    Args:
        seed: Seed of the whole sample.
        *path: Stable non-negative integers that name the place.
    """
    return np.random.default_rng([seed, *path])


def reference_energies(compositions: FloatArray, energies: FloatArray) -> FloatArray:
    """Fit one reference energy per element by least squares.

    Args:
        compositions: Atom counts, shape (structures, elements).
        energies: Total energies in eV, shape (structures,).

    Returns:
        Reference energies in eV per atom, shape (elements,).
    """
    return np.asarray(np.linalg.lstsq(compositions, energies, rcond=1e-10)[0], dtype=np.float64)
