"""Choices that a reader leaves to the user."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtlpar.core.settings import Settings


class SourceSettings(Settings):
    """Which of several labels of one source to read."""

    mptrj_energy: Literal["uncorrected", "corrected"] = Field(
        default="uncorrected",
        description="MPTrj: raw DFT energy, or with MP2020 corrections (discontinuous between "
        "classes of compounds).",
    )
    qm7x_dispersion: bool = Field(
        default=True,
        description="QM7-X: PBE0+MBD energies with their total forces, or PBE0 without dispersion.",
    )


class CustomSource(Settings):
    """A source in files that ASE reads: everything about it that is not in the files."""

    format: Literal["extxyz", "db"] = Field(
        description="extended XYZ, also with .gz, .bz2 or .xz behind the name, or an ASE database."
    )
    files: tuple[str, ...] = Field(
        min_length=1, description="Names or shell patterns of the raw files."
    )
    level_of_theory: str = Field(min_length=1, description="How the labels were computed.")
    title: str | None = Field(default=None, description="Name for people; the key by default.")
    energy_key: str = Field(default="energy", description="Total energy.")
    forces_key: str = Field(default="forces", description="Forces on the atoms.")
    stress_key: str | None = Field(
        default=None, description="Stress, tension positive; a structure without one is kept."
    )
    charge_key: str | None = Field(default=None, description="Total charge; 0 by default.")
    spin_key: str | None = Field(
        default=None, description="Spin multiplicity 2S+1; unknown by default."
    )
    group_key: str | None = Field(
        default=None,
        description="What names structures that must not be split, for instance a trajectory; by "
        "default structures of the same composition stay together.",
    )
    energy_unit: Literal["eV", "Hartree", "kcal/mol", "kJ/mol"] = Field(
        default="eV", description="Of the energy, and of that in the forces."
    )
    length_unit: Literal["Å", "Bohr"] = Field(
        default="Å", description="Length in the unit of the forces; positions are always in Å."
    )
    stress_unit: Literal["eV/Å^3", "GPa", "kbar"] = Field(
        default="eV/Å^3", description="Of the stress."
    )
