"""What is found in structures that are kept: counted and reported, never dropped.

A row is dropped only if nothing can be learned from it (`mtlpar.extract.checks`). Net forces, close
atoms and large steps can be right, in an external field or far from equilibrium; whether to train
on them is the user's decision, so they are counted here. So are structures without a
label, a charge or a spin, and labels that were taken off.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import LABELS
from mtlpar.core.structures import StructureBatch
from mtlpar.core.wording import counted
from mtlpar.extract.close_atoms import has_close_atoms
from mtlpar.extract.energy_work import MIN_PAIRS, EnergyWork
from mtlpar.extract.settings import PhysicsSettings
from mtlpar.extract.slopes import Slopes
from mtlpar.extract.stress_size import StressSize
from mtlpar.extract.uncomputed import Uncomputed
from mtlpar.sources.base import Choice, LabelUse

logger = logging.getLogger(__name__)


class Findings:
    """Counts over any part of a source; parts are put together with `merge`.

    Attributes:
        structures: Structures looked at.
        close_atoms: Structures with two atoms closer than the limit.
        net_force: Structures whose forces do not add up to zero.
        largest_net_force_ev_per_angstrom: Length of the largest sum of forces.
        largest_force_ev_per_angstrom: Length of the longest force on any atom.
        energy_work: Energy differences against the work of the forces.
        stress_size: Stresses against volumes.
        without: Structures that lack a label, by label.
        weightless: Structures with a label whose weight in the objective is zero, by label.
        removed_labels: Labels that were taken off structures, by reason.
        uncomputed: Labels that are exactly zero, or all the same.
        labels: Labels that rows have and lack, where the configuration says which to read.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.structures = self.close_atoms = self.net_force = 0
        self.largest_net_force_ev_per_angstrom = self.largest_force_ev_per_angstrom = 0.0
        self.energy_work = EnergyWork()
        self.stress_size = StressSize()
        self.without: Counter[str] = Counter()
        self.weightless: Counter[str] = Counter()
        self.removed_labels: Counter[str] = Counter()
        self.uncomputed = Uncomputed()
        self.labels = LabelUse()

    def add(self, batch: StructureBatch, settings: PhysicsSettings) -> None:
        """Take in consecutive structures that passed `mtlpar.extract.checks.check`."""
        if len(batch) == 0:
            return
        self.structures += len(batch)
        self.close_atoms += int(has_close_atoms(batch, settings.min_distance_angstrom).sum())
        for label in LABELS:
            has = batch.has(label)
            self.without[label] += int((~has).sum())
            self.weightless[label] += int((has & (getattr(batch, f"{label}_weight") == 0)).sum())
        forces = batch.forces.astype(np.float64)
        net = np.linalg.norm(_sums(forces, batch), axis=1)
        self.net_force += int((net > settings.max_net_force_ev_per_angstrom).sum())
        lengths = np.linalg.norm(forces, axis=1)
        self._take_largest(float(net.max()), float(lengths.max()))
        self.energy_work.add(batch)
        self.stress_size.add(batch)
        self.uncomputed.add(batch, lengths)

    def merge(self, other: Findings) -> None:
        """Take in what was found in another part."""
        self.structures += other.structures
        self.close_atoms += other.close_atoms
        self.net_force += other.net_force
        self._take_largest(
            other.largest_net_force_ev_per_angstrom, other.largest_force_ev_per_angstrom
        )
        self.energy_work.merge(other.energy_work)
        self.stress_size.merge(other.stress_size)
        self.without.update(other.without)
        self.weightless.update(other.weightless)
        self.removed_labels.update(other.removed_labels)
        self.uncomputed.merge(other.uncomputed)
        self.labels.merge(other.labels)

    @classmethod
    def total(cls, parts: Iterable[Findings]) -> Findings:
        """Put parts together."""
        total = cls()
        for part in parts:
            total.merge(part)
        return total

    def as_dict(self) -> dict[str, Any]:
        """Plain content for the manifest."""
        return {
            "structures": self.structures,
            "close_atoms": self.close_atoms,
            "net_force": self.net_force,
            "largest_net_force_ev_per_angstrom": self.largest_net_force_ev_per_angstrom,
            "largest_force_ev_per_angstrom": self.largest_force_ev_per_angstrom,
            "energy_work": self.energy_work.as_dict(),
            "stress_size": self.stress_size.as_dict(),
            "without": {label: self.without[label] for label in LABELS},
            "weightless": {label: self.weightless[label] for label in LABELS},
            "removed_labels": dict(sorted(self.removed_labels.items())),
            "uncomputed": self.uncomputed.as_dict(),
            "labels": {
                "rows": self.labels.rows,
                "lacking": dict(sorted(self.labels.lacking.items())),
                "unused": dict(sorted(self.labels.unused.items())),
                "isolated_atoms_ev": dict(sorted(self.labels.isolated_atoms_ev.items())),
                "choices": {
                    option: {
                        "key": choice.key,
                        "wanted": list(choice.wanted),
                        "values": dict(sorted(choice.values.items())),
                    }
                    for option, choice in self.labels.choices.items()
                },
            },
        }

    def to_record(self) -> dict[str, Any]:
        """Everything, as plain values that `from_record` reads."""
        plain = self.as_dict()
        return {
            **plain,
            "energy_work": self.energy_work.to_record(),
            "stress_size": self.stress_size.moduli.to_record(),
            "labels": {**plain["labels"], "keys": sorted(self.labels.keys)},
        }

    @classmethod
    def from_record(cls, content: dict[str, Any]) -> Findings:
        """What `to_record` wrote."""
        findings = cls()
        for name, value in content.items():
            setattr(findings, name, value)
        findings.energy_work = EnergyWork.from_record(content["energy_work"])
        findings.stress_size = StressSize()
        findings.stress_size.moduli = Slopes.from_record(content["stress_size"])
        findings.uncomputed = Uncomputed.from_record(content["uncomputed"])
        findings.without = Counter(content["without"])
        findings.weightless = Counter(content["weightless"])
        findings.removed_labels = Counter(content["removed_labels"])
        labels = content["labels"]
        findings.labels = LabelUse(
            labels["rows"],
            Counter(labels["lacking"]),
            set(labels["keys"]),
            Counter(labels["unused"]),
            labels["isolated_atoms_ev"],
            {
                option: Choice(choice["key"], tuple(choice["wanted"]), Counter(choice["values"]))
                for option, choice in labels["choices"].items()
            },
        )
        return findings

    def require_choices(self, source: str) -> None:
        """See that the values which the configuration chooses by occur.

        Raises:
            ValueError: If one of them is in no structure.
        """
        for option, choice in self.labels.choices.items():
            if unmet := choice.unmet():
                raise ValueError(
                    f"{source}: {unmet}. Correct custom_sources.{source}.{option}, or leave it out"
                )

    def report(self, source: str, settings: PhysicsSettings) -> None:
        """Say what was found in a source.

        Raises:
            ValueError: If no structure has a label that the configuration names, or if energies do
                not change as the forces say, unless the settings allow it.
        """
        self._report_labels(source)
        self._report_unused(source)
        self._report_missing(source)
        for problem in self.uncomputed.problems():
            logger.warning("%s: %s (kept)", source, problem)
        if self.close_atoms:
            logger.warning(
                "%s: %s with atoms closer than %g Å (kept)",
                source,
                counted(self.close_atoms, "structure"),
                settings.min_distance_angstrom,
            )
        if self.net_force:
            logger.warning(
                "%s: %s with a net force above %g eV/Å, at most %.3g (kept)",
                source,
                counted(self.net_force, "structure"),
                settings.max_net_force_ev_per_angstrom,
                self.largest_net_force_ev_per_angstrom,
            )
        self._report_slopes(source, settings)

    def _report_labels(self, source: str) -> None:
        lacking = sorted(self.labels.lacking.items())
        if nowhere := [key for key, count in lacking if count == self.labels.rows]:
            raise ValueError(
                f"{source}: no structure has the label of "
                f"{' and of '.join(f'custom_sources.{source}.{key}' for key in nowhere)}; there "
                f"are {', '.join(sorted(self.labels.keys))}. Correct the key, or leave it out"
            )
        for key, count in lacking:
            logger.warning(
                "%s: %d of %s without the label of custom_sources.%s.%s (kept)",
                source,
                count,
                counted(self.labels.rows, "structure"),
                source,
                key,
            )

    def _report_unused(self, source: str) -> None:
        if unused := self.labels.unused:
            logger.warning(
                "%s: keys of the files that nothing reads, with the number of structures: %s; to "
                "use them see custom_sources in docs/add_a_source.md",
                source,
                ", ".join(f"{key} ({count})" for key, count in sorted(unused.items())),
            )

    def _report_missing(self, source: str) -> None:
        for label in LABELS:
            if 0 < self.without[label] < self.structures or (
                label != "stress" and self.without[label]
            ):
                kept = counted(self.without[label], "structure")
                logger.info("%s: %s kept without %s", source, kept, label)
            if weightless := self.weightless[label]:
                everything = weightless == self.structures - self.without[label]
                logger.log(
                    logging.WARNING if everything else logging.INFO,
                    "%s: %s with a weight of 0 for %s, which no model learns from %s",
                    source,
                    counted(weightless, "structure"),
                    label,
                    "any" if everything else "them",
                )
        for reason, count in sorted(self.removed_labels.items()):
            logger.warning(
                "%s: %s left out: %s (structures kept)", source, counted(count, "label"), reason
            )

    def _report_slopes(self, source: str, settings: PhysicsSettings) -> None:
        forces = self.energy_work.as_dict()
        for what, found in (("forces", forces), ("stress", forces["stress"])):
            if found["slope"] is not None:
                logger.info(
                    "%s: slope of energy against work of the %s %.3g over %s",
                    source,
                    what,
                    found["slope"],
                    counted(found["pairs"], "step"),
                )
            elif what == "forces":
                logger.info(
                    "%s: energy against work: not applicable, %s between neighbouring rows and %d "
                    "are needed",
                    source,
                    counted(found["pairs"], "short step"),
                    MIN_PAIRS,
                )
        problem = self.energy_work.problem_of_forces() or self.energy_work.problem_of_stress()
        if problem is None:
            if unlikely := self.stress_size.problem():
                logger.warning("%s: %s. Check the stress's unit, sign and kind", source, unlikely)
            return
        message = f"{source}: {problem}. Look at the reader's units, keys and signs"
        if settings.wrong_slope == "error":
            raise ValueError(f"{message}; extract.physics.wrong_slope: warn continues anyway")
        logger.warning("%s", message)

    def _take_largest(self, net_force: float, force: float) -> None:
        self.largest_net_force_ev_per_angstrom = max(
            self.largest_net_force_ev_per_angstrom, net_force
        )
        self.largest_force_ev_per_angstrom = max(self.largest_force_ev_per_angstrom, force)


def _sums(rows: npt.NDArray[Any], batch: StructureBatch) -> npt.NDArray[Any]:
    # No structure is empty here, so every segment is what it seems.
    sums: npt.NDArray[Any] = np.add.reduceat(rows, batch.offsets[:-1], axis=0)
    return sums
