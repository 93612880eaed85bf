"""Geometry of the edges of a batch: the only place where a model looks at positions."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import torch
from ase.data import covalent_radii
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.graph.batch import GraphBatch
from mtlpar.model.passes import forces_come_first

TYPICAL_NEIGHBORS = 16.0

# Cordero et al. 2008, as in ASE, end with curium; heavier atoms are taken to be as large as that.
_LAST_RADIUS: Final = 96
_RADII_ANGSTROM: Final = [
    float(covalent_radii[min(number, _LAST_RADIUS)]) for number in range(MAX_ATOMIC_NUMBER + 1)
]


class EdgeRuns(NamedTuple):
    """Where each atom's edges lie, for A atoms and E edges; all int32.

    Attributes:
        receiver_start: (A + 1,) edges before those that an atom receives.
        sender_order: (E,) the edges ordered by sender.
        sender_start: (A + 1,) places in that order before the edges that an atom sends.
    """

    receiver_start: Tensor
    sender_order: Tensor
    sender_start: Tensor


class Edge(NamedTuple):
    """What a layer knows about the edges of a batch, which are sorted by receiver.

    Attributes:
        sender: (E,) atoms that send.
        receiver: (E,) atoms that receive.
        direction: (E, 3) unit vectors from receiver to sender.
        radial: (E, K) radial functions of the length, zero at the cutoff.
        envelope: (E, 1) smooth cutoff.
    """

    sender: Tensor
    receiver: Tensor
    direction: Tensor
    radial: Tensor
    envelope: Tensor


class RadialBasis(nn.Module):
    """Functions of the distance d in Å, and of d measured by the size of the two atoms.

    One half are Bessel functions sqrt(2) sin(k pi d / r_c) / (d / r_c), the other half
    sqrt(2) sin(k pi d / (d + R_i + R_j)) with covalent radii R: a bond is where its elements touch,
    so what is learned of one pair of elements holds for others. All are multiplied by a
    polynomial envelope. Bessel functions and envelope as in Gasteiger et al. 2020
    (arXiv 2003.03123), eqs. 7 and 8 with p = 6.
    """

    radii_angstrom: Tensor
    frequencies: Tensor
    relative_frequencies: Tensor

    def __init__(self, size: int, cutoff_angstrom: float) -> None:
        super().__init__()
        self.cutoff = cutoff_angstrom
        frequencies = math.pi * torch.arange(1, (size + 1) // 2 + 1, dtype=torch.float64)
        radii = torch.tensor(_RADII_ANGSTROM, dtype=torch.float64)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("relative_frequencies", frequencies[: size // 2], persistent=False)
        self.register_buffer("radii_angstrom", radii, persistent=False)

    def forward(self, distance: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Expand distances.

        Args:
            distance: (E, 1) lengths in Å.
            sizes: (E, 1) sums of the atoms' radii in Å; see `sizes`.

        Returns:
            Radial functions (E, K) and the envelope (E, 1).
        """
        x = distance / self.cutoff
        envelope = cutoff_envelope(x)
        bessel = torch.sin(self.frequencies.to(x.dtype) * x) / x
        relative = distance / (distance + sizes)
        waves = torch.sin(self.relative_frequencies.to(x.dtype) * relative)
        return math.sqrt(2.0) * torch.cat([bessel, waves], dim=1) * envelope, envelope

    def with_slopes(self, distance: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Radial functions and their derivatives by the distance; zero from the cutoff on.

        Args:
            distance: (E,) lengths in Å.
            sizes: (E,) sums of the atoms' radii in Å.

        Returns:
            Functions and derivatives in 1/Å, (K, E) each: one function after the other.
        """
        x = (distance / self.cutoff).clamp(max=1)
        total = distance + sizes
        bessel = len(self.frequencies)
        frequencies = torch.cat([self.frequencies, self.relative_frequencies]).to(x.dtype)[:, None]
        phase = torch.cat([frequencies[:bessel] * x, frequencies[bessel:] * (distance / total)])
        slopes, waves = torch.cos(phase).mul_(frequencies), phase.sin_()
        waves[:bessel].div_(x)
        slopes[:bessel].sub_(waves[:bessel]).div_(distance)
        slopes[bessel:].mul_(sizes / total.square())
        envelope, falls = envelope_with_slope(x)
        slopes.mul_(envelope).addcmul_(waves, falls / self.cutoff).mul_(math.sqrt(2.0))
        return waves.mul_(envelope * math.sqrt(2.0)), slopes

    def sizes(self, first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
        """Sums of covalent radii in Å, (E, 1), of atomic numbers (E,)."""
        radii = self.radii_angstrom.to(dtype)
        return (radii[first] + radii[second])[:, None]


def cutoff_envelope(x: Tensor) -> Tensor:
    """1 - 28 x^6 + 48 x^7 - 21 x^8 below one and zero above, smooth to the second derivative.

    Args:
        x: Distance over cutoff, any shape.
    """
    return torch.where(x < 1, 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, torch.zeros_like(x))


def envelope_with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """`cutoff_envelope` and its derivative by x, which has a factored form."""
    x = x.clamp(max=1)
    fifth = x.square().square() * x
    return 1 - fifth * x * (28 - 48 * x + 21 * x.square()), -168 * fifth * (1 - x).square()


def edge_vectors(batch: GraphBatch) -> Tensor:
    """Vectors in Å from receiver to the sender's image, (E, 3), in the dtype of ``pos``."""
    sender, receiver = batch.edge_index
    vectors: Tensor = batch.pos[sender] + batch.edge_shift - batch.pos[receiver]
    return vectors


def describe_edges(z: Tensor, edge_index: Tensor, vector: Tensor, basis: RadialBasis) -> Edge:
    """Directions, radial functions and envelope of edge vectors (E, 3) between atoms (A,)."""
    sender, receiver = edge_index
    sizes = basis.sizes(z[sender], z[receiver], vector.dtype)
    if vector.requires_grad and forces_come_first():
        described = _Described.apply(vector, sizes, basis)  # type: ignore[no-untyped-call]
        return Edge(sender, receiver, *described)
    distance = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
    radial, envelope = basis(distance, sizes)
    return Edge(sender, receiver, vector / distance, radial, envelope)


class _Described(torch.autograd.Function):
    """Directions, radial functions and envelope of edge vectors, where forces come first.

    Of the gradient by the vectors only what is linear in it is differentiated again: the geometry
    is the same for all weights.
    """

    @staticmethod
    def forward(ctx: Any, vector: Tensor, sizes: Tensor, basis: RadialBasis) -> tuple[Tensor, ...]:
        """Describe vectors (E, 3) between atoms of sizes (E, 1)."""
        distance = torch.linalg.vector_norm(vector, dim=1)
        radial, slopes = basis.with_slopes(distance, sizes[:, 0])
        envelope, falls = envelope_with_slope(distance / basis.cutoff)
        direction = vector / distance[:, None]
        ctx.save_for_backward(
            distance[:, None],
            direction,
            slopes.T.contiguous(),
            (falls / basis.cutoff)[:, None],
        )
        return direction, radial.T.contiguous(), envelope[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the vectors."""
        found = _VectorGradient.apply(*ctx.saved_tensors, *grads)  # type: ignore[no-untyped-call]
        return found, None, None


class _VectorGradient(torch.autograd.Function):
    """Gradient of edge vectors from those of `_Described`, differentiable by the latter."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Distances, directions, slopes of radial functions and envelope, and three gradients."""
        distance, direction, slopes, falls, of_direction, of_radial, of_envelope = tensors
        ctx.save_for_backward(*tensors[:4])
        along = (direction * of_direction).sum(dim=1, keepdim=True)
        length = (slopes * of_radial).sum(dim=1, keepdim=True) + falls * of_envelope
        return (of_direction - direction * along) / distance + direction * length

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, move: Tensor) -> tuple[Tensor | None, ...]:
        """How directions, radial functions and envelope change when the vectors move."""
        distance, direction, slopes, falls = ctx.saved_tensors
        along = (direction * move).sum(dim=1, keepdim=True)
        turn = (move - direction * along) / distance
        return None, None, None, None, turn, slopes * along, falls * along


def find_runs(sender: Tensor, receiver: Tensor, num_atoms: int) -> EdgeRuns:
    """Find each atom's edges among edges (E,) that are sorted by receiver."""
    sent = torch.sort(sender.int(), stable=True)
    starts = torch.arange(num_atoms + 1, dtype=torch.int32, device=sender.device)
    return EdgeRuns(
        torch.searchsorted(receiver.int(), starts, out_int32=True),
        sent.indices.int(),
        torch.searchsorted(sent.values, starts, out_int32=True),
    )


def sum_to_receivers(values: Tensor, receiver: Tensor, num_atoms: int) -> Tensor:
    """Sum edge values (E, ...) over each receiver, divided by the root of a typical count.

    A fixed divisor, not each atom's own count: the sum must stay smooth and extensive.
    """
    total = values.new_zeros(num_atoms, *values.shape[1:]).index_add(0, receiver, values)
    return total / math.sqrt(TYPICAL_NEIGHBORS)


def forces_and_stress(batch: GraphBatch, vector: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Forces and stress from the gradient of the energy by the edge vectors.

    A strain e turns every edge vector r into (1 + e) r, so the stress is (1 / V) sum_edges r dE/dr.

    Args:
        batch: The collated batch.
        vector: (E, 3) edge vectors in Å.
        gradient: (E, 3) derivatives of the summed energies in eV/Å.

    Returns:
        Forces in eV/Å, (A, 3), and stresses in eV/Å^3, (S, 3, 3), tension positive. A stress is NaN
        where a structure does not repeat or its cell has no volume.
    """
    receiver = batch.edge_index[1]
    virial = gradient.new_zeros(len(batch.num_atoms), 3, 3).index_add(
        0, batch.batch[receiver], vector[:, :, None] * gradient[:, None, :]
    )
    virial = (virial + virial.transpose(1, 2)) / 2
    volume = torch.linalg.det(batch.cell).abs().to(virial)
    has_stress = batch.pbc.any(dim=1) & (volume > 0)
    # Division by one where there is no volume: NaN there would reach gradients through zeros.
    stress = virial / torch.where(has_stress, volume, torch.ones_like(volume))[:, None, None]
    forces = forces_of(gradient, batch.edge_index, len(batch.z))
    return forces, torch.where(has_stress[:, None, None], stress, torch.nan)


def forces_of(gradient: Tensor, edge_index: Tensor, num_atoms: int) -> Tensor:
    """Forces in eV/Å, (A, 3), from the gradient of the energy by the edge vectors, (E, 3) in eV/Å.

    Edge vectors are all that an energy depends on. An atom pulls on the edges it sends along and
    is pulled back by those it receives from.
    """
    sender, receiver = edge_index
    forces = gradient.new_zeros(num_atoms, 3)
    return forces.index_add(0, receiver, gradient).index_add(0, sender, -gradient)
