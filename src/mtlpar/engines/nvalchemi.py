"""A trained model in NVIDIA's ALCHEMI Toolkit, which simulates many structures at a time.

A batch of the toolkit has the fields of its first structure, so that a crystal behind a molecule
loses its cell, and what ASE's structures are made into lacks their velocities and spin. `to_batch`
keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms
from torch import Tensor

from mtlpar.core.ase_structures import charge_of, spin_of
from mtlpar.core.electronic_state import CHARGE_KEYS, SPIN_KEYS
from mtlpar.engines.optional import need
from mtlpar.engines.states import STATE, StateModel, check_precision, split

if TYPE_CHECKING:
    from nvalchemi.data import AtomicData, Batch

_INSTALL = "nvalchemi-toolkit"
base = need("nvalchemi.models.base", install=_INSTALL)
data = need("nvalchemi.data", install=_INSTALL)

_HOW_TO_STATE = (
    "have both in the info of every structure (spin is the multiplicity 2S+1; 0 if unknown) and "
    "make the batch with mtlpar.engines.nvalchemi.to_batch"
)


class NvalchemiModel(torch.nn.Module, base.BaseModelMixin):  # type: ignore[misc, name-defined]
    """Total energies (eV, references included), forces and stresses of the toolkit's batches.

    Numbers are those of `mtlpar.Calculator`. Batches are float64, as in the calculator, whatever
    the precision of the weights. The model finds its neighbours itself. Models that predict forces
    directly have no stress, and where a structure has none, because it does not repeat, the stress
    is NaN.

    Examples:
        >>> model = NvalchemiModel("model.pt", source="mptrj")
        >>> batch = NVE(model, dt=1.0, n_steps=1000).run(to_batch(structures))
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        source: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Load a model.

        Args:
            model_path: The ``model.pt`` that training wrote.
            source: Source whose level of theory is wanted; optional if the model has only one.
            device: Where to predict, and where batches must be.
            dtype: Precision of the weights; see `mtlpar.load_model`.

        Raises:
            ValueError: If the source does not exist, or several exist and none was named.
        """
        super().__init__()
        self._answers = StateModel(model_path, source=source, device=device, dtype=dtype)
        self.source = self._answers.source
        self.model_config = base.ModelConfig(
            outputs={"energy", "forces"} | ({"stress"} if self._answers.has_stress else set()),
            required_inputs={"cell", "pbc"},
            optional_inputs=set(STATE),
            supports_pbc=True,
        )

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """None: the model gives no embeddings to the toolkit."""
        return {}

    def compute_embeddings(self, data: AtomicData | Batch, **_: Any) -> AtomicData | Batch:
        """Refuse; see `mtlpar.SavedModel.predict`, which gives descriptors.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("embeddings come from mtlpar.SavedModel.predict(descriptors=...)")

    def direct_derivative_keys(self) -> set[str]:
        """What sums of models take from this one, whose energies are nothing to differentiate."""
        return set(self.model_config.outputs) - {"energy"}

    def forward(self, data: Batch, **_: Any) -> dict[str, Tensor]:
        """Predict all structures of a batch.

        Returns:
            Of what is active, ``energy`` (S, 1) in eV, ``forces`` (A, 3) in eV/Å and, from
            conservative models, ``stress`` (S, 3, 3) in eV/Å^3, tension positive.

        Raises:
            ValueError: If a structure cannot be answered for, as by `mtlpar.SavedModel.predict`, if
                charge or spin is missing where the model needs it, if the batch does not say which
                structures repeat, or if it is not float64.
        """
        found = self._answers.predict(self._structures(data))
        return dict(base.BaseModelMixin.adapt_output(self, found, data))

    def _structures(self, batch: Batch) -> list[Atoms]:
        check_precision(batch.positions.dtype, how_to_make="make it with to_batch")
        if absent := [name for name in ("cell", "pbc") if name not in batch]:
            raise ValueError(
                f"the batch has no {' and no '.join(absent)}, and crystals behind a molecule lose "
                "theirs in Batch.from_data_list: make it with mtlpar.engines.nvalchemi.to_batch"
            )
        counts = batch.num_nodes_list
        stated = {name: batch[name] for name in STATE if name in batch}
        pieces = zip(
            split(batch.atomic_numbers, counts),
            split(batch.positions, counts),
            batch.cell.detach().cpu().numpy(),
            batch.pbc.cpu().numpy(),
            self._answers.infos(stated, len(counts), how_to_state=_HOW_TO_STATE),
            strict=True,
        )
        return [
            Atoms(numbers, positions, cell=cell, pbc=pbc, info=info)
            for numbers, positions, cell, pbc, info in pieces
        ]


def to_batch(structures: Sequence[Atoms], *, device: torch.device | str = "cpu") -> Batch:
    """Make a batch of molecules, slabs and crystals together, in float64.

    Each structure keeps its cell, ``pbc``, masses, velocities and, if all state them in
    ``atoms.info``, charge (e) and spin multiplicity.

    Raises:
        ValueError: If some structures state charge or spin and others do not, or if one states no
            whole number.
    """
    states = _states(structures)
    rows = [
        data.AtomicData(
            atomic_numbers=torch.from_numpy(atoms.numbers),
            positions=torch.from_numpy(atoms.positions),
            atomic_masses=torch.from_numpy(atoms.get_masses()),
            # The toolkit's time, as ASE's, is in Å (u/eV)^(1/2).
            velocities=torch.from_numpy(atoms.get_velocities()),  # type: ignore[no-untyped-call]
            cell=torch.from_numpy(atoms.cell.array[None]),
            pbc=torch.from_numpy(atoms.pbc[None]),
            **state,
        )
        for atoms, state in zip(structures, states, strict=True)
    ]
    return data.Batch.from_data_list(rows).to(device)


def _states(structures: Sequence[Atoms]) -> list[dict[str, Tensor]]:
    """What structures state of charge and spin, each of shape (1, 1)."""
    states: list[dict[str, Tensor]] = [{} for _ in structures]
    for name, keys, find in (("charge", CHARGE_KEYS, charge_of), ("spin", SPIN_KEYS, spin_of)):
        is_stated = [any(atoms.info.get(key) is not None for key in keys) for atoms in structures]
        if all(is_stated):
            for number, (state, atoms) in enumerate(zip(states, structures, strict=True)):
                state[name] = torch.tensor([[float(find(atoms, number))]], dtype=torch.float64)
        elif any(is_stated):
            raise ValueError(
                f"structure {is_stated.index(False)} states no {name} and structure "
                f"{is_stated.index(True)} does: {_HOW_TO_STATE}"
            )
    return states
