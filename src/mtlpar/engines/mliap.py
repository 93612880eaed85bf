"""A trained model for ``pair_style mliap unified``, LAMMPS's interface for models on clusters.

LAMMPS deals atoms to ranks and shows each the atoms that it owns and copies of those around, its
ghosts. It knows nothing of layers: what an atom learned in one layer reaches its ghosts by an
exchange before the next, and gradients come back the same way. Builds with KOKKOS offer that.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor

from mtlpar.engines.traced import require_exportable
from mtlpar.model.file import load_model
from mtlpar.model.heads import Branch

Layer = tuple[Tensor, Tensor, Any]


class MliapModel:
    """What LAMMPS calls in every step; `save` writes it for ``pair_style mliap unified FILE``.

    Attributes:
        element_types: Symbols that ``pair_coeff`` may name.
        rcutfac: Half of the cutoff in Å.
        ndescriptors: As the interface wants it.
        nparams: As the interface wants it.
        interface: Filled in by LAMMPS.
    """

    ndescriptors: Final = 1
    nparams: Final = 1
    interface: Any = None

    # Of tensors made in inference mode there would be no gradients.
    @torch.inference_mode(False)
    def __init__(
        self,
        model_path: str | Path,
        *,
        source: str | None = None,
        charge: int | None = None,
        spin: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load a model.

        Args:
            model_path: The ``model.pt`` that training wrote.
            source: Source whose level of theory is wanted; optional if the model has only one.
            charge: Total charge in e, which a model that was trained with charges needs.
            spin: Spin multiplicity 2S+1, likewise; 0 if unknown.
            device: Where LAMMPS keeps its atoms.

        Raises:
            ValueError: If the source was not chosen, charge or spin is missing, or the model cannot
                be used so; see `mtlpar.engines.traced.require_exportable`.
        """
        model = load_model(model_path, device=device)
        require_exportable(model)
        if model.settings.head.energy == "mean":
            raise ValueError(
                "energies of this model are means over all atoms, which no rank of LAMMPS knows"
            )
        knows_state = model.settings.encoder.charge_and_spin
        if knows_state and (charge is None or spin is None):
            raise ValueError("this model needs charge and spin (0: unknown): state both")
        if not knows_state and (charge or (spin or 0) > 1):
            raise ValueError(f"this model knows nothing of charge {charge} and spin {spin}")
        self._arguments = {
            "source": source, "charge": charge, "spin": spin, "device": str(device)
        }  # fmt: skip
        self._path = Path(model_path).resolve()
        source = model.choose_source(source)
        branch = model.network.heads[model.branch_of(source)]
        assert isinstance(branch, Branch)
        self._encoder, self._branch = model.network.encoder, branch
        self.element_types = list(model.references[source].energies_ev)
        self.rcutfac = 0.5 * model.settings.graph.cutoff_angstrom
        self._device = torch.device(device)
        numbers = [atomic_numbers[symbol] for symbol in self.element_types]
        self._numbers = torch.tensor(numbers, device=device)
        self._references = torch.from_numpy(model.references[source].table()).to(device)
        self._isolated = model.network.isolated(model.branch_of(source))
        self._state = torch.tensor([[charge or 0], [spin or 0]], device=device)

    def __reduce__(self) -> tuple[Callable[..., MliapModel], tuple[Path, dict[str, Any]]]:
        """A pickle holds where the model is, not its weights: those are read with their digest."""
        return _again, (self._path, self._arguments)

    def save(self, path: Path) -> None:
        """Write what LAMMPS reads; the name must not end in .pt, which it would give to torch."""
        if path.suffix in (".pt", ".pth"):
            raise ValueError(
                f"{path}: LAMMPS reads files called .pt in another way; call it .pickle"
            )
        path.write_bytes(pickle.dumps(self))

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: there are none."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing: there are none."""

    def compute_forces(self, data: Any) -> None:
        """Give LAMMPS energies of its atoms and what each pair adds to forces and virial.

        Raises:
            ValueError: If this build of LAMMPS cannot exchange features.
        """
        has_exchange = hasattr(data, "forward_exchange")
        if not has_exchange and len(self._encoder.layers) > 1:
            raise ValueError(
                "this build of LAMMPS cannot exchange features of atoms between layers; "
                "use one with KOKKOS, or mtlpar lammps on one process"
            )
        owned = int(data.nlocal if hasattr(data, "nlocal") else data.nlistatoms)
        with torch.inference_mode(False), torch.enable_grad(), self._exchanging(data, owned):
            energies, slope = self._answer(data, owned)
        if has_exchange:
            torch.as_tensor(data.eatoms, device=self._device)[:owned].copy_(energies)
        else:
            data.eatoms = energies.cpu().numpy()
        data.energy = float(energies.sum())
        if len(slope):
            data.update_pair_forces(slope.numpy() if slope.device.type == "cpu" else slope)

    def _answer(self, data: Any, owned: int) -> tuple[Tensor, Tensor]:
        """Energies of owned atoms in eV and the gradient by the pairs' vectors, in float64."""
        z = self._numbers[self._tensor(data.elems, data.ntotal).long()]
        pairs = [self._tensor(ends, data.npairs).long() for ends in (data.pair_j, data.pair_i)]
        vector = self._tensor(data.rij, (data.npairs, 3)).double()
        weight = self._encoder.species.weight
        vector = vector.to(weight.dtype).requires_grad_()
        charge, spin = self._state
        scalars = self._encoder.embed(z, charge, spin, torch.zeros_like(z))
        atoms = self._encoder.encode(scalars, z, torch.stack(pairs), vector)
        found = self._branch.atom_energies(atoms.slice(0, owned))
        (slope,) = torch.autograd.grad([found.sum()], [vector], materialize_grads=True)
        energies = found.detach().double() + self._references[z[:owned]]
        if self._isolated is not None:
            energies -= self._isolated.energies.double()[z[:owned]]
        return energies, slope.double().contiguous()

    def _tensor(self, values: Any, shape: int | tuple[int, int]) -> Tensor:
        """An array of LAMMPS, which has none where there is nothing."""
        if values is None or not np.prod(shape):
            return torch.zeros(shape, dtype=torch.float64, device=self._device)
        return torch.as_tensor(values, device=self._device)

    @contextmanager
    def _exchanging(self, data: Any, owned: int) -> Iterator[None]:
        """Let each layer but the first see what ghosts' owners have become."""

        def exchange(_: torch.nn.Module, arguments: Layer) -> Layer:
            scalars, vectors, edge = arguments
            width = scalars.shape[1]
            whole = torch.cat([scalars, vectors.flatten(1)], dim=1)
            whole = _Exchange.apply(whole, data, owned)  # type: ignore[no-untyped-call]
            return whole[:, :width], whole[:, width:].view_as(vectors), edge

        layers: Sequence[torch.nn.Module] = list(self._encoder.layers)[1:]
        handles = [layer.register_forward_pre_hook(exchange) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Exchange(torch.autograd.Function):
    """Ghosts become what their owners are; gradients of ghosts go to their owners."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, data: Any, owned: int) -> Tensor:
        ctx.data, ctx.owned = data, owned
        features = features.contiguous()
        exchanged = torch.empty_like(features)
        data.forward_exchange(features, exchanged, features.shape[1])
        return exchanged

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous()
        gathered = torch.empty_like(grad)
        ctx.data.reverse_exchange(grad, gathered, grad.shape[1])
        # What ghosts were before the exchange is nowhere.
        gathered[ctx.owned :] = 0
        return gathered, None, None


def _again(path: Path, arguments: dict[str, Any]) -> MliapModel:
    return MliapModel(path, **arguments)
