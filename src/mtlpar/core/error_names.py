"""What errors and sizes of labels are called in metrics, histories and packs."""

from __future__ import annotations

from typing import Final

MAE_NAMES: Final = {
    "energy": "energy_mae_ev_per_atom",
    "forces": "force_mae_ev_per_angstrom",
    "stress": "stress_mae_ev_per_cubic_angstrom",
}
"""Mean absolute errors by label, as metrics and histories call them."""

MEAN_ABS_NAMES: Final = {
    "energy": "energy_mean_abs_ev_per_atom",
    "forces": "force_mean_abs_ev_per_angstrom",
    "stress": "stress_mean_abs_ev_per_cubic_angstrom",
}
"""Mean absolute values of labels on train, which is what predicting zero would cost."""

RMS_NAMES: Final = {
    "energy": "energy_rms_ev_per_atom",
    "forces": "force_rms_ev_per_angstrom",
    "stress": "stress_rms_ev_per_cubic_angstrom",
}
"""Root mean squares of labels on train."""

RMSE_NAMES: Final = {
    "energy": "energy_rmse_ev_per_atom",
    "forces": "force_rmse_ev_per_angstrom",
    "stress": "stress_rmse_ev_per_cubic_angstrom",
}
"""Root-mean-square errors by label."""

ERROR_UNITS: Final = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å^3"}
"""Units of errors and sizes by label."""
