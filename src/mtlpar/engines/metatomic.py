"""A branch as a model of metatomic, which several engines read.

TorchScript compiles what follows, and reads its annotations: they are names here, not strings.
"""

from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
import torch
from torch import Tensor

from mtlpar.core.files import atomic_path
from mtlpar.engines.optional import need
from mtlpar.engines.provenance import facts
from mtlpar.engines.traced import AtomEnergies, as_torchscript, example, trace
from mtlpar.model.saved import SavedModel

_INSTALL = "metatomic-torch metatomic-ase"
metatensor = need("metatensor.torch", install=_INSTALL)
metatomic = need("metatomic.torch", install=_INSTALL)

# By name for the compiler, once they are known to be there.
from metatensor.torch import Labels, TensorBlock, TensorMap  # noqa: E402
from metatomic.torch import ModelOutput, NeighborListOptions, System  # noqa: E402


class MetatomicBranch(torch.nn.Module):
    """The interface that metatomic asks for, around the graph of a branch."""

    def __init__(
        self, graph: torch.jit.ScriptModule, *, output: str, cutoff: float, states: bool
    ) -> None:
        """Take what `export` made.

        Args:
            graph: Energies of atoms, see `mtlpar.engines.traced.AtomEnergies`.
            output: Name of the energy.
            cutoff: Cutoff in Å.
            states: Whether the model knows about charge and spin.
        """
        super().__init__()
        self.graph, self.output, self.states = graph, output, states
        self.options = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """All pairs within the cutoff, in both directions."""
        return [self.options]

    def requested_inputs(self) -> Dict[str, ModelOutput]:
        """Charge and spin, if the model knows about them."""
        inputs: Dict[str, ModelOutput] = {}
        if self.states:
            inputs["charge"] = ModelOutput(unit="e", sample_kind="system")
            inputs["spin_multiplicity"] = ModelOutput(unit="", sample_kind="system")
        return inputs

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Total energies in eV, references included, by system or by atom."""
        results: Dict[str, TensorMap] = {}
        if self.output not in outputs or len(systems) == 0:
            return results
        energies = self.atom_energies(systems)
        samples = torch.cat([_samples(index, systems[index]) for index in range(len(systems))])
        of_atoms = TensorBlock(
            energies[:, None],
            Labels(["system", "atom"], samples),
            _no_components(),
            Labels(["energy"], torch.zeros(1, 1, dtype=torch.int32, device=samples.device)),
        )
        keys = Labels(["_"], torch.zeros(1, 1, dtype=torch.int32, device=samples.device))
        found = TensorMap(keys, [of_atoms])
        if selected_atoms is not None:
            found = metatensor.slice(found, "samples", selected_atoms)
        if outputs[self.output].sample_kind == "system":
            found = metatensor.sum_over_samples(found, ["atom"])
        results[self.output] = found
        return results

    def atom_energies(self, systems: List[System]) -> Tensor:
        """Energies of all atoms in eV."""
        numbers: List[Tensor] = []
        structure: List[Tensor] = []
        edges: List[Tensor] = []
        vectors: List[Tensor] = []
        charges: List[Tensor] = []
        spins: List[Tensor] = []
        first = 0
        for index, system in enumerate(systems):
            types = system.types.to(torch.int64)
            pairs = system.get_neighbor_list(self.options)
            ends = pairs.samples.values[:, :2].to(torch.int64) + first
            numbers.append(types)
            structure.append(torch.full_like(types, index))
            # Their vectors go from the first atom to the second: it receives from there.
            edges.append(ends.flip(1).t())
            vectors.append(pairs.values[:, :, 0])
            if self.states:
                charges.append(_whole(system, "charge"))
                spins.append(_whole(system, "spin_multiplicity"))
            first += len(system)
        if self.states:
            charge, spin = torch.cat(charges), torch.cat(spins)
        else:
            charge = torch.zeros(len(systems), dtype=torch.int64, device=numbers[0].device)
            spin = charge
        energies: Tensor = self.graph(
            torch.cat(numbers), charge, spin, torch.cat(structure), torch.cat(edges, 1),
            torch.cat(vectors),
        )  # fmt: skip
        return energies


def _no_components() -> List[Labels]:
    empty: List[Labels] = []
    return empty


def _samples(index: int, system: System) -> Tensor:
    """Labels of a system's atoms, (A, 2)."""
    atoms = torch.arange(len(system), dtype=torch.int32, device=system.positions.device)
    return torch.stack([torch.full_like(atoms, index), atoms], dim=1)


def _whole(system: System, name: str) -> Tensor:
    """A whole number that a system has, (1,)."""
    value = system.get_data(name).block().values.reshape(1)
    whole: Tensor = value.round().to(torch.int64)
    if bool((value - whole).abs().max() > 1e-6):
        raise ValueError(name + " is not a whole number")
    return whole


# Whatever mode the caller has set: what is traced differentiates.
@torch.inference_mode(False)
def export(model: SavedModel, source: str, path: Path, *, model_file: Path) -> None:
    """Write the branch of a source as a model of metatomic.

    Its only output is ``energy/<source>``: an engine has to ask for a level of theory by name.

    Args:
        model: The model, on the CPU.
        source: Source whose level of theory is exported.
        path: File to write.
        model_file: Where the model comes from.

    Raises:
        ValueError: If the model cannot be exported; see `mtlpar.engines.traced`.
    """
    settings = model.settings
    said = facts(model, source, model_file)
    output, level = f"energy/{source}", said["level_of_theory"]
    branch = MetatomicBranch(
        as_torchscript(trace(AtomEnergies(model, source), example())),
        output=output,
        cutoff=settings.graph.cutoff_angstrom,
        states=settings.encoder.charge_and_spin,
    )
    capabilities = metatomic.ModelCapabilities(
        outputs={output: ModelOutput(unit="eV", sample_kind="atom", description=level)},
        atomic_types=np.flatnonzero(np.isfinite(model.references[source].table())).tolist(),
        interaction_range=settings.encoder.layers * settings.graph.cutoff_angstrom,
        length_unit="Angstrom",
        supported_devices=["cuda", "cpu"],
        dtype="float64",
    )
    metadata = metatomic.ModelMetadata(
        name=f"{said['model_name']}, {source}: {level}",
        description="A branch of a multi-task model by mtlpar; energies are total energies.",
        extra=said,
    )
    whole = metatomic.AtomisticModel(branch.eval(), metadata, capabilities)
    with atomic_path(path) as temporary:
        whole.save(temporary)
