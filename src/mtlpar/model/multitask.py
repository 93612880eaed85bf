"""The whole network: encoder plus the branches that this process holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mtlpar.core.hashing import derive_seed
from mtlpar.graph.batch import GraphBatch
from mtlpar.model.egnn import EgnnEncoder
from mtlpar.model.encoder import AtomFeatures, Encoder
from mtlpar.model.geometry import edge_vectors, forces_and_stress
from mtlpar.model.heads import Branch
from mtlpar.model.isolated import IsolatedAtoms, only_isolated, with_isolated
from mtlpar.model.painn import PainnEncoder
from mtlpar.model.passes import forces_first
from mtlpar.model.settings import EgnnSettings, EncoderSettings, ModelSettings, PainnSettings

ENCODERS: Final[Mapping[type[EncoderSettings], type[Encoder]]] = {
    EgnnSettings: EgnnEncoder,
    PainnSettings: PainnEncoder,
}
"""The encoder of each kind of settings."""


class Segment(NamedTuple):
    """Consecutive structures of a batch that go through one branch.

    Attributes:
        branch: Name of the branch.
        start: First structure.
        stop: Structure after the last.
        atoms: First atom and atom after the last. Without them the batch is asked, which waits
            for the GPU if it lies on one.
    """

    branch: str
    start: int
    stop: int
    atoms: tuple[int, int] | None = None

    def atom_bounds(self, batch: GraphBatch) -> tuple[int, int]:
        """First atom and atom after the last."""
        return self.atoms or (int(batch.ptr[self.start]), int(batch.ptr[self.stop]))


class _Part(NamedTuple):
    """Consecutive atoms of a batch that go through one branch.

    Attributes:
        branch: The branch.
        atoms: What the encoder says of the atoms.
        z: Their atomic numbers.
        isolated: What the encoder says of an atom of each element alone, if that is the zero.
    """

    branch: Branch
    atoms: AtomFeatures
    z: Tensor
    isolated: AtomFeatures | None

    def less_isolated(self, values: Tensor, of: Callable[[AtomFeatures], Tensor]) -> Tensor:
        """Values of the atoms less those of isolated ones, if these are the zero."""
        return values if self.isolated is None else values - of(self.isolated)[self.z]

    def last_features(self) -> Tensor:
        """What the energies are linear in, (A, H)."""
        of = self.branch.last_features
        return self.less_isolated(of(self.atoms.scalars), lambda atoms: of(atoms.scalars))


class AtomsOf(Protocol):
    """Which atoms belong to which structure; a `GraphBatch` says it."""

    @property
    def batch(self) -> Tensor:
        """(A,) the structure of each atom."""

    @property
    def num_atoms(self) -> Tensor:
        """(S,) atoms of each structure."""


class Pooled(NamedTuple):
    """Means over the atoms of each structure, in float64 and without gradients.

    Attributes:
        descriptors: Invariant features of the encoder, (S, F).
        last: What the energy per atom is linear in, see `mtlpar.model.uncertainty`: features before
            the last layer of the energy head and a one, (S, H + 1); both divided by the number of
            atoms where the total energy is a mean. Where isolated atoms are the zero, theirs are
            taken off, and the one is a zero.
    """

    descriptors: Tensor
    last: Tensor


class Prediction(NamedTuple):
    """What the model says about a batch.

    Attributes:
        energy_per_atom: Energy per atom without references in eV/atom, (S,).
        forces: Forces in eV/Å, (A, 3).
        stress: Stress in eV/Å^3, (S, 3, 3), tension positive; NaN where a structure does not
            repeat or its cell has no volume. None if forces are not conservative.
        atom_energies: What each atom adds to the energy without references in eV, (A,).
        pooled: Means over the atoms, if they were asked for.
    """

    energy_per_atom: Tensor
    forces: Tensor
    stress: Tensor | None = None
    atom_energies: Tensor | None = None
    pooled: Pooled | None = None

    def detach(self) -> Prediction:
        """The same numbers, without what is needed for gradients."""
        stress, of_atoms = self.stress, self.atom_energies
        return Prediction(
            self.energy_per_atom.detach(),
            self.forces.detach(),
            None if stress is None else stress.detach(),
            None if of_atoms is None else of_atoms.detach(),
            self.pooled,
        )


class TargetScale(NamedTuple):
    """Size of the training targets of a branch.

    Attributes:
        energy_ev_per_atom: Root mean square of the energy per atom without references.
        force_ev_per_angstrom: Root mean square of the force components.
    """

    energy_ev_per_atom: float
    force_ev_per_angstrom: float


class MultiTaskModel(nn.Module):
    """A shared encoder and a `Branch` by name.

    Weights are drawn from seeds of their own for the encoder and each branch, so a process that
    holds only some branches starts from the same numbers as one that holds all of them.
    """

    def __init__(self, settings: ModelSettings, branches: Iterable[str], *, seed: int) -> None:
        """Build encoder and branches.

        Args:
            settings: Architecture.
            branches: Names of the branches to hold.
            seed: The run's seed.

        Raises:
            ValueError: If a branch has a name that the network cannot take.
        """
        super().__init__()
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            # Weights are drawn on the CPU; `torch.manual_seed` would seed all devices, for good.
            torch.default_generator.manual_seed(derive_seed(seed, "encoder"))
            self.encoder: Encoder = ENCODERS[type(settings.encoder)](
                settings.encoder, cutoff_angstrom=settings.graph.cutoff_angstrom
            )
            self.heads = nn.ModuleDict()
            for name in branches:
                if hasattr(self.heads, name):
                    raise ValueError(
                        f"a branch cannot be called {name!r}, a name that PyTorch reserves; rename "
                        "it"
                    )
                torch.default_generator.manual_seed(derive_seed(seed, "branch", name))
                self.heads[name] = Branch(
                    settings.encoder.width, self.encoder.num_vectors, settings.head
                )

    @property
    def is_conservative(self) -> bool:
        """Whether forces are minus the gradient of the energy, and stress is predicted too."""
        return self.settings.head.forces == "conservative"

    def forward(
        self, batch: GraphBatch, segments: Sequence[Segment], *, pool: bool = False
    ) -> Prediction:
        """Predict a batch whose structures are grouped by branch.

        A batch without structures is encoded too, and needs no segments: what is empty still
        depends on the encoder, so that a process without data can take part in others' work.

        Conservative forces need no gradient mode of the caller's; where it is on, they can be
        differentiated again, as training does.

        Args:
            batch: A collated batch.
            segments: Pieces of the batch in order, without gaps.
            pool: Whether means over the atoms are wanted too.

        Raises:
            ValueError: If the segments do not cover the batch, or name a branch not held here, or
                if forces are gradients and torch is in inference mode.
        """
        self._check_segments(batch, segments)
        if self.is_conservative and torch.is_inference_mode_enabled():
            raise ValueError(
                "forces of this model are gradients, which cannot be computed under "
                "torch.inference_mode; use torch.no_grad, or SavedModel.predict and Calculator in "
                "any mode"
            )
        vectors = edge_vectors(batch).to(self.encoder.species.weight.dtype)
        if self.is_conservative:
            return self._conservative(batch, segments, vectors, pool=pool)
        atoms, isolated = self._encode(batch, vectors)
        energies, forces = [], []
        for part in self._parts(batch, segments, atoms, isolated):
            energy, force = part.branch(part.atoms)
            energies.append(part.less_isolated(energy, part.branch.atom_energies))
            forces.append(force)
        of_atoms = self._atom_energies(batch, energies, atoms)
        return Prediction(
            sum_atoms(batch, of_atoms) / batch.num_atoms,
            torch.cat(forces or [atoms.vectors.sum(dim=1)]),
            atom_energies=of_atoms,
            pooled=self._pool(batch, segments, atoms, isolated) if pool else None,
        )

    @torch.no_grad()
    def pool(self, batch: GraphBatch, segments: Sequence[Segment]) -> Pooled:
        """Means over the atoms alone, without energies and forces; arguments as of `forward`."""
        self._check_segments(batch, segments)
        vectors = edge_vectors(batch).to(self.encoder.species.weight.dtype)
        return self._pool(batch, segments, *self._encode(batch, vectors))

    @torch.no_grad()
    def isolated(self, branch: str) -> IsolatedAtoms | None:
        """Isolated atoms by a branch, if they are the zero of its energies; else None."""
        if not self._zero_is_isolated:
            return None
        head, weight = self.heads[branch], self.encoder.species.weight
        assert isinstance(head, Branch)
        atoms = self.encoder(only_isolated(weight.device), weight.new_zeros(0, 3))
        return IsolatedAtoms(head.atom_energies(atoms), head.last_features(atoms.scalars))

    @property
    def _zero_is_isolated(self) -> bool:
        return self.settings.head.isolated_atoms == "reference"

    def _encode(
        self, batch: GraphBatch, vectors: Tensor
    ) -> tuple[AtomFeatures, AtomFeatures | None]:
        """What the encoder says of the atoms and, if they are the zero, of isolated ones."""
        if not self._zero_is_isolated:
            return self.encoder(batch, vectors), None
        both, count = self.encoder(with_isolated(batch), vectors), len(batch.z)
        return both.slice(0, count), both.slice(count, len(both.scalars))

    @torch.no_grad()
    def _pool(
        self,
        batch: GraphBatch,
        segments: Sequence[Segment],
        atoms: AtomFeatures,
        isolated: AtomFeatures | None,
    ) -> Pooled:
        parts = self._parts(batch, segments, atoms, isolated)
        last = torch.cat([part.last_features() for part in parts] or [atoms.scalars])
        return self.pool_atoms(batch, atoms.scalars, last)

    @torch.no_grad()
    def pool_atoms(self, batch: GraphBatch, scalars: Tensor, last: Tensor) -> Pooled:
        """Means over the atoms of each structure.

        Args:
            batch: The batch.
            scalars: Invariant features of the atoms, (A, F).
            last: What their energies are linear in, (A, H), less that of isolated atoms where
                these are the zero.
        """
        counts = batch.num_atoms[:, None].double()
        descriptors = sum_atoms(batch, scalars.detach().double()) / counts
        return Pooled(descriptors, self.pool_last(batch, last))

    def pool_last(self, structures: AtomsOf, last: Tensor) -> Tensor:
        """What energies per atom are linear in, (S, K), from that of the atoms, (A, H)."""
        counts = structures.num_atoms[:, None].double()
        means = sum_atoms(structures, last.double()) / counts
        one = torch.full_like(counts, not self._zero_is_isolated)
        pooled = torch.cat([means, one], dim=1)
        return pooled if self.settings.head.energy == "sum" else pooled / counts

    def _conservative(
        self, batch: GraphBatch, segments: Sequence[Segment], vectors: Tensor, *, pool: bool
    ) -> Prediction:
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad(), forces_first():
            vectors = vectors.detach().requires_grad_()
            atoms, isolated = self._encode(batch, vectors)
            energies = [
                part.less_isolated(part.branch.atom_energies(part.atoms), part.branch.atom_energies)
                for part in self._parts(batch, segments, atoms, isolated)
            ]
            of_atoms = self._atom_energies(batch, energies, atoms)
            energy = sum_atoms(batch, of_atoms)
            (gradient,) = torch.autograd.grad(
                [energy.sum()], [vectors], create_graph=create_graph, materialize_grads=True
            )
        forces, stress = forces_and_stress(batch, vectors, gradient)
        energy_per_atom = energy / batch.num_atoms
        pooled = self._pool(batch, segments, atoms, isolated) if pool else None
        prediction = Prediction(energy_per_atom, forces, stress, of_atoms, pooled)
        return prediction if create_graph else prediction.detach()

    def _atom_energies(
        self, batch: GraphBatch, energies: Sequence[Tensor], atoms: AtomFeatures
    ) -> Tensor:
        """What atoms add to the energy without references in eV, (A,), segment by segment."""
        of_atoms = torch.cat([*energies] or [atoms.scalars.sum(dim=1)])
        is_sum = self.settings.head.energy == "sum"
        return of_atoms if is_sum else of_atoms / batch.num_atoms[batch.batch]

    def _parts(
        self,
        batch: GraphBatch,
        segments: Sequence[Segment],
        atoms: AtomFeatures,
        isolated: AtomFeatures | None,
    ) -> Iterator[_Part]:
        for segment in segments:
            branch = self.heads[segment.branch]
            assert isinstance(branch, Branch)
            first, last = segment.atom_bounds(batch)
            yield _Part(branch, atoms.slice(first, last), batch.z[first:last], isolated)

    def compile_parts(self) -> None:
        """Compile layers and heads one by one, for any size of a batch."""
        heads = [head for branch in self.heads.values() for head in branch.children()]
        for part in (*self.encoder.layers, *heads):
            part.compile(dynamic=True)

    def set_scales(self, scales: Mapping[str, TargetScale]) -> None:
        """Tell the branches held here how large their targets are."""
        for name, branch in self.heads.items():
            assert isinstance(branch, Branch)
            branch.energy_scale.fill_(scales[name].energy_ev_per_atom)
            branch.force_scale.fill_(scales[name].force_ev_per_angstrom)

    def _check_segments(self, batch: GraphBatch, segments: Sequence[Segment]) -> None:
        bounds = [0, *(segment.stop for segment in segments)]
        starts = [segment.start for segment in segments]
        if starts != bounds[:-1] or bounds[-1] != len(batch.num_atoms):
            raise ValueError(
                f"segments {[tuple(s) for s in segments]} do not cover the "
                f"{len(batch.num_atoms)} structures of the batch in order"
            )
        for segment in segments:
            if segment.branch not in self.heads:
                raise ValueError(
                    f"no branch is called {segment.branch!r}; there are {', '.join(self.heads)}"
                )


def sum_atoms(structures: AtomsOf, of_atoms: Tensor) -> Tensor:
    """Sums over the atoms (A, ...) of each structure, (S, ...)."""
    sums = of_atoms.new_zeros(len(structures.num_atoms), *of_atoms.shape[1:])
    return sums.index_add(0, structures.batch, of_atoms)


def count_parameters(part: nn.Module | None) -> int:
    """Number of parameters of a part; none if there is no such part."""
    return 0 if part is None else sum(p.numel() for p in part.parameters())


def parameter_counts(model: MultiTaskModel) -> dict[str, int]:
    """Number of parameters of the encoder and of each branch held."""
    parts: dict[str, nn.Module] = {"encoder": model.encoder, **dict(model.heads.items())}
    return {name: count_parameters(part) for name, part in parts.items()}
