"""Physical constants and unit conversions: the only place in the project that holds them.

Internal units are Å, eV, eV/Å, eV/Å^3 and e. Constants are CODATA 2018.
"""

from __future__ import annotations

from typing import Final

HARTREE_EV: Final = 27.211386245988
"""One Hartree in eV."""

BOHR_ANGSTROM: Final = 0.529177210903
"""One Bohr radius in Å."""

KCAL_PER_MOL_EV: Final = 4184 / 96485.33212331001
"""One kcal/mol in eV."""

KJ_PER_MOL_EV: Final = 1000 / 96485.33212331001
"""One kJ/mol in eV."""

EV_PER_CUBIC_ANGSTROM_GPA: Final = 160.21766208
"""One eV/Å^3 in GPa."""

KBAR_GPA: Final = 0.1
"""One kbar in GPa."""

VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM: Final = -KBAR_GPA / EV_PER_CUBIC_ANGSTROM_GPA
"""Factor from VASP's stress (kbar, compression positive) to ours (eV/Å^3, tension positive)."""
