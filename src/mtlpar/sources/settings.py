"""Choices that a reader leaves to the user."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mtlpar.core.settings import Settings


def _number_as_name(value: Any) -> Any:
    """A number as the readers spell it where it is a name: 7.0 is 7."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    return str(int(value)) if float(value).is_integer() else str(value)


Name = Annotated[str, BeforeValidator(_number_as_name)]
"""What a key of a structure is; YAML reads a name such as 2 as a number."""


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


StressUnit = Literal[
    "eV/Å^3", "GPa", "kbar", "bar", "Hartree/Bohr^3", "eV", "Hartree", "kcal/mol", "kJ/mol"
]

_PRESETS: Final[dict[str, dict[str, str]]] = {
    "ase": {
        "kind": "stress",
        "unit": "eV/Å^3",
        "positive": "tension",
        "order": "xx yy zz yz xz xy",
    },
    "vasp": {
        "kind": "stress",
        "unit": "kbar",
        "positive": "compression",
        "order": "xx yy zz xy yz xz",
    },
    "lammps": {
        "kind": "stress",
        "unit": "bar",
        "positive": "compression",
        "order": "xx yy zz xy xz yz",
    },
    "virial": {
        "kind": "virial",
        "unit": "eV",
        "positive": "compression",
        "order": "xx yy zz yz xz xy",
    },
}
_ENERGIES: Final = ("eV", "Hartree", "kcal/mol", "kJ/mol")


class StressLabel(Settings):
    """A stress or virial of a custom source, and the convention it is written in."""

    key: str = Field(min_length=1, description="Key of the stress or virial in the files.")
    preset: Literal["ase", "vasp", "lammps", "virial"] = Field(
        default="ase",
        description="Convention for what is not said below. ase: stress in eV/Å^3, tension "
        "positive, xx yy zz yz xz xy. vasp: stress in kbar, compression positive, xx yy zz xy yz "
        "xz. lammps: pressure in bar, compression positive, xx yy zz xy xz yz. virial: what "
        "extended XYZ calls so, minus stress times volume in eV.",
    )
    kind: Literal["stress", "virial"] | None = Field(
        default=None, description="A virial is a stress times the volume of the cell."
    )
    unit: StressUnit | None = Field(
        default=None, description="Of a stress: eV/Å^3, GPa, kbar, bar; of a virial: an energy."
    )
    positive: Literal["tension", "compression"] | None = Field(
        default=None, description="Which state of the cell has positive numbers."
    )
    order: str | None = Field(
        default=None,
        description="Order of six numbers, for instance xx yy zz yz xz xy. Nine numbers are rows "
        "of the matrix.",
    )

    @model_validator(mode="after")
    def _convention_is_whole(self) -> StressLabel:
        is_energy = self.convention("unit") in _ENERGIES
        if is_energy != (self.convention("kind") == "virial"):
            raise ValueError(
                f"the unit of a {self.convention('kind')} cannot be {self.convention('unit')}: a "
                "stress is an energy per volume, a virial an energy; state kind and unit together"
            )
        if sorted(self.components) != sorted(_PRESETS["ase"]["order"].split()):
            raise ValueError(
                f"order: expected xx, yy, zz, yz, xz and xy once each, got {self.order!r}"
            )
        return self

    def convention(self, name: Literal["kind", "unit", "positive", "order"]) -> str:
        """What was said of the convention, or what the preset says."""
        said: str | None = getattr(self, name)
        return _PRESETS[self.preset][name] if said is None else said

    @property
    def components(self) -> tuple[str, ...]:
        """Names of six numbers in their order; zx is xz."""
        names = self.convention("order").split()
        return tuple("".join(sorted(name)) for name in names)


class IsolatedAtoms(Settings):
    """Which rows of a custom source are single atoms that give reference energies."""

    key: str = Field(default="config_type", description="Key that marks them.")
    value: Name = Field(default="IsolatedAtom", description="What it is for them.")


class LabelWeights(Settings):
    """Keys of weights of each structure in the objective; a missing one counts as 1."""

    structure: str | None = Field(
        default=None, description="Weight of all labels, as config_weight in files for MACE."
    )
    energy: str | None = Field(default=None, description="Further factor of the energy's weight.")
    forces: str | None = Field(default=None, description="Further factor of the forces' weight.")
    stress: str | None = Field(default=None, description="Further factor of the stress's weight.")


class GivenSplits(Settings):
    """Splits that the user has made: by file, or by a key of each structure."""

    key: str | None = Field(
        default=None, description="Key that names the split of a structure, instead of its file."
    )
    train: tuple[Name, ...] = Field(
        min_length=1, description="Files of train (names or patterns), or values of the key."
    )
    val: tuple[Name, ...] = Field(
        min_length=1, description="Files or values that are validated on."
    )
    test: tuple[Name, ...] = Field(min_length=1, description="Files or values that are tested on.")


class CustomSource(Settings):
    """A source in files that ASE reads: everything about it that is not in the files."""

    format: Literal["extxyz", "db", "traj"] | None = Field(
        default=None,
        description="Format of the files: extxyz is extended XYZ (also .gz, .bz2 or .xz), db an "
        "ASE database, traj an ASE trajectory; null: what the name of each file says.",
    )
    files: tuple[str, ...] = Field(
        min_length=1,
        description="Names or shell patterns of the raw files, such as 'water_*.xyz' or "
        "'run*/frames.xyz'.",
    )
    mirrors: tuple[str, ...] = Field(
        default=(),
        description="Folders or URLs with the files of this source, instead of download.mirrors.",
    )
    level_of_theory: str = Field(
        min_length=1,
        description="How the labels were computed, for people: it is shown in tables and model "
        "files.",
    )
    title: str | None = Field(
        default=None, description="Name of the source in tables and figures; null: its key."
    )
    where: dict[str, Name | tuple[Name, ...]] = Field(
        default={},
        description="Take only structures that have this value, or one of these, under each key; "
        "others are counted as not_selected.",
    )
    energy_key: str | None = Field(
        default="energy",
        description="Name of the total energy in the files; null: they have none that counts.",
    )
    forces_key: str | None = Field(
        default="forces",
        description="Name of the forces on the atoms in the files; null: they have none that "
        "count.",
    )
    stress: StressLabel | None = Field(
        default=None, description="The stress or virial in the files and its convention."
    )
    stress_key: str | None = Field(
        default=None,
        description="Name of the stress in the files: short for stress with tension positive and "
        "six numbers in the order xx yy zz yz xz xy.",
    )
    charge_key: str | None = Field(
        default="auto",
        description="Name of the total charge in the files, or of charges of the atoms that add up "
        "to it; auto: charge or total_charge where structures have one, else 0; null: 0 whatever "
        "they have.",
    )
    spin_key: str | None = Field(
        default="auto",
        description="Name of the spin multiplicity 2S+1 in the files; auto: spin or multiplicity "
        "where structures have one, else unknown; null: unknown whatever they have.",
    )
    group_key: str | None = Field(
        default=None,
        description="Name of what must not be split between train and test, for instance of a "
        "trajectory; null: structures of the same composition stay together.",
    )
    groups_like: str | None = Field(
        default=None,
        description="Source that names the same groups, each of which is then dealt to the same "
        "split in both: mptrj for identifiers of the Materials Project in digits or letters, "
        "alexandria for compositions, or another custom source; null: groups of its own.",
    )
    splits: GivenSplits | None = Field(
        default=None, description="Splits that are given, which are kept to the row."
    )
    weights: LabelWeights = Field(
        default=LabelWeights(), description="Weights of single structures in the objective."
    )
    isolated_atoms: IsolatedAtoms | None = Field(
        default=None,
        description="Single atoms among the structures that give reference energies; they are "
        "counted as isolated_atom and no training rows.",
    )
    energy_unit: Literal["eV", "Hartree", "kcal/mol", "kJ/mol"] = Field(
        default="eV",
        description="Unit of the energies, and of the energy in the unit of the forces.",
    )
    length_unit: Literal["Å", "Bohr"] = Field(
        default="Å", description="Length in the unit of the forces. Positions are always in Å."
    )
    stress_unit: StressUnit = Field(
        default="eV/Å^3", description="Unit of the stresses that stress_key names."
    )

    @field_validator("files")
    @classmethod
    def _stay_below_the_folder(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for name in files:
            parts = name.split("/")
            if not all(parts) or {".", "..", "**"} & {*parts}:
                raise ValueError(
                    f"{name!r}: expected a name or pattern below the folder of the source, such as "
                    "water_*.xyz or run*/frames.xyz; say where that folder is under mirrors"
                )
        return files

    @model_validator(mode="after")
    def _labels_are_named_once(self) -> CustomSource:
        if self.stress is not None and self.stress_key is not None:
            raise ValueError("stress and stress_key name the same label; keep one of them")
        if self.energy_key is None and self.forces_key is None and self.stress_label is None:
            raise ValueError("energy_key, forces_key and stress leave no label to learn from")
        return self

    @model_validator(mode="after")
    def _nothing_is_said_of_a_label_that_is_not_read(self) -> CustomSource:
        default = type(self).model_fields["stress_unit"].default
        if self.stress_unit != default and self.stress_key is None:
            raise ValueError(
                "stress_unit is the unit of what stress_key names, and stress_key is not given; "
                "name the stress there, or state its unit under stress: {key: ..., unit: ...}"
            )
        read = {
            "energy": ("energy_key", self.energy_key is not None),
            "forces": ("forces_key", self.forces_key is not None),
            "stress": ("stress", self.stress_label is not None),
        }
        for label, (option, is_read) in read.items():
            if getattr(self.weights, label) is not None and not is_read:
                raise ValueError(
                    f"weights.{label} weights a label that is not read; give {option}, or leave "
                    "the weight out"
                )
        if self.isolated_atoms is not None and self.energy_key is None:
            raise ValueError(
                "isolated_atoms give reference energies, and energy_key: null reads none; name "
                "the energy, or leave isolated_atoms out"
            )
        return self

    @property
    def stress_label(self) -> StressLabel | None:
        """The stress, however it was named."""
        if self.stress_key is not None:
            return StressLabel(key=self.stress_key, unit=self.stress_unit)
        return self.stress
