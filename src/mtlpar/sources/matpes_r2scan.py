"""MatPES with labels of r2SCAN: the layout, materials and groups of `mtlpar.sources.matpes`."""

from __future__ import annotations

from typing import Final

from mtlpar.sources.base import Source
from mtlpar.sources.matpes import read

SOURCE: Final = Source(
    name="matpes_r2scan",
    title="MatPES r2SCAN",
    data_files=("MatPES-R2SCAN-20*.json.gz",),
    level_of_theory="r2SCAN (VASP, MatPESStaticSet)",
    read=read,
)
