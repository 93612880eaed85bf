"""Choices that a reader leaves to the user."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtlpar.core.settings import Settings


class SourceSettings(Settings):
    """Which of several labels of one source to read."""

    mptrj_energy: Literal["uncorrected", "corrected"] = Field(
        default="uncorrected",
        description="Which energy of MPtrj to learn: the raw one of DFT, or with the MP2020 "
        "corrections, which jump between classes of compounds.",
    )
    qm7x_dispersion: bool = Field(
        default=True,
        description="Which labels of QM7-X to learn: PBE0+MBD with total forces, or PBE0 "
        "without dispersion.",
    )


class CustomSource(Settings):
    """A source in files that ASE reads: everything about it that is not in the files."""

    format: Literal["extxyz", "db"] = Field(
        description="Format of the files: extxyz is extended XYZ (also .gz, .bz2 or .xz), db an "
        "ASE database."
    )
    files: tuple[str, ...] = Field(
        min_length=1, description="Names or shell patterns of the raw files, such as 'water_*.xyz'."
    )
    level_of_theory: str = Field(
        min_length=1,
        description="How the labels were computed, for people: it is shown in tables and model "
        "files.",
    )
    title: str | None = Field(
        default=None, description="Name of the source in tables and figures; null: its key."
    )
    energy_key: str = Field(default="energy", description="Name of the total energy in the files.")
    forces_key: str = Field(
        default="forces", description="Name of the forces on the atoms in the files."
    )
    stress_key: str | None = Field(
        default=None,
        description="Name of the stress in the files, tension positive. A structure without one "
        "is kept.",
    )
    charge_key: str | None = Field(
        default=None,
        description="Name of the total charge in the files; null, or a structure without one: 0.",
    )
    spin_key: str | None = Field(
        default=None,
        description="Name of the spin multiplicity 2S+1 in the files; null, or a structure "
        "without one: unknown.",
    )
    group_key: str | None = Field(
        default=None,
        description="Name of what must not be split between train and test, for instance of a "
        "trajectory; null: structures of the same composition stay together.",
    )
    energy_unit: Literal["eV", "Hartree", "kcal/mol", "kJ/mol"] = Field(
        default="eV",
        description="Unit of the energies, and of the energy in the unit of the forces.",
    )
    length_unit: Literal["Å", "Bohr"] = Field(
        default="Å", description="Length in the unit of the forces. Positions are always in Å."
    )
    stress_unit: Literal["eV/Å^3", "GPa", "kbar"] = Field(
        default="eV/Å^3", description="Unit of the stresses that stress_key names."
    )
