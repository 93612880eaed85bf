"""The EGNN without autograd, and the gradient of the energy by the edge vectors, written out.

In steps of a simulation autograd costs as much as the numbers do, and half of the rest goes into
memory that each operation allocates and into views of it. Here edges lie in a table by receiver
(`mtlpar.model.egnn.edge_table`), and for each shape of that table the operations are written once
into a program (`mtlpar.model.egnn.program`), whose memory stays from step to step.

With W_x = [W_e, W_i, W_j] the formula of `mtlpar.model.egnn.messages` reads, for edges to atom i,

    p_ij = [u_ij, 1] . [W_i V_i, a_i] + s_j + [W_j, W_e] [V_j . u_ij, e_ij],
    z_ij = W silu(p_ij) + w,   m_ij = silu(z_ij) * (W_f e_ij),
    [S_i, received_i] = sum_j [u_ij, 1] m_ij,   pushed_i = W_v S_i + sum_j (W_c m_ij) V_j:

what is linear in u_ij is computed per atom. The divisor of the sums is part of W_f. The backward
pass is the chain rule on this. Vectors have their axis first here, (3, A, C), and n = a M edges
that belong to a atoms are computed together.

What is written once pays where a structure moves. Many structures at once gain from the table: a
product of small matrices takes the place of a sum over edges, and nothing is kept for weights.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtlpar.core.large_pages import empty_in_large_pages
from mtlpar.model.egnn.edge_table import Rows
from mtlpar.model.egnn.encoder import EgnnEncoder
from mtlpar.model.egnn.plain_weights import PlainWeights
from mtlpar.model.egnn.steps import Steps
from mtlpar.model.encoder import AtomFeatures
from mtlpar.model.heads import Branch

# Buffers of so many edges stay in the last-level cache of a CPU.
_BLOCK_EDGES: Final = 4096


class Answer(NamedTuple):
    """What an encoder and a branch with conservative forces say of A atoms with E edges.

    Attributes:
        energies: Energies without references in eV, (A,).
        gradient: Derivatives of their sum by the edge vectors in eV/Å, (3, E).
        scalars: Invariant features of the atoms, (A, F).
        last: What the energies are linear in, (A, H).
    """

    energies: Tensor
    gradient: Tensor
    scalars: Tensor
    last: Tensor


class EgnnInference:
    """Encoder and one branch, ready for some structures after others.

    It has the weights of the moment when it is made. What it returns holds until it is asked again.
    """

    def __init__(self, encoder: EgnnEncoder, branch: Branch) -> None:
        """Take the weights of an encoder and of a branch."""
        self._weights, self._goes_back = PlainWeights(encoder, branch), branch.force is None
        self._forget()

    def _forget(self) -> None:
        self._steps: Steps | None = None
        self._edges: tuple[Tensor, Tensor] | None = None
        self._row: Tensor | None = None
        self._memory: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What copies begin with: weights. Programs would write into the memory of this one."""
        return {"_weights": self._weights, "_goes_back": self._goes_back}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with weights."""
        vars(self).update(state)
        self._forget()

    @torch.inference_mode()
    def features(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> AtomFeatures:
        """What the encoder says about the atoms.

        Args:
            scalars: (A, F) what the atoms are.
            z: (A,) atomic numbers.
            edge_index: (2, E) senders and receivers, sorted by receiver.
            vector: (3, E) edge vectors in Å from receiver to sender.
        """
        steps, row = self._run_forward(scalars, z, edge_index, vector)
        added = [after - before for before, after in pairwise(steps.vectors)]
        vectors = torch.cat(added, dim=2).permute(1, 2, 0)
        return AtomFeatures(_of_atoms(steps.normalised, row), _of_atoms(vectors, row))

    @torch.inference_mode()
    def energies_and_gradient(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> Answer:
        """Energies of the atoms, and the gradient of their sum by the edge vectors.

        Args:
            scalars: As for `features`, like the other arguments.
            z: As there.
            edge_index: As there.
            vector: As there.
        """
        steps, row = self._run_forward(scalars, z, edge_index, vector)
        steps.backward()
        energies, scalars, last = (
            _of_atoms(values, row)
            for values in (steps.energies[:, 0], steps.normalised, steps.last)
        )
        return Answer(energies, steps.gradient(), scalars, last)

    def _run_forward(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> tuple[Steps, Tensor | None]:
        """Run with the memory of the step before, and its places of the edges, if they fit.

        Returns:
            What was computed, and the row of each atom; None if it is the number of the atom.
        """
        steps = self._steps_for(scalars, z, edge_index)
        steps.table.measure(vector)
        if self._row is None:
            steps.scalars[0].copy_(scalars)
        else:
            steps.scalars[0].index_copy_(0, self._row, scalars)
        steps.forward()
        return steps, self._row

    def _reserve(self, dtype: torch.dtype, count: int) -> Tensor:
        """Memory for numbers, that of the steps before if it is enough."""
        if self._memory is None or self._memory.dtype != dtype or len(self._memory) < count:
            self._memory = None
            self._memory = empty_in_large_pages(count, dtype)
        return self._memory[:count]

    def _steps_for(self, scalars: Tensor, z: Tensor, edge_index: Tensor) -> Steps:
        steps, edges = self._steps, self._edges
        if steps and edges and all(map(torch.equal, edges, (z, edge_index))):
            return steps
        self._edges = None
        counts = torch.bincount(edge_index[1], minlength=len(z))
        order = np.argsort(counts.numpy(), kind="stable")
        before = None if steps is None else steps.table.rows
        rows = Rows.of(counts.numpy()[order], _BLOCK_EDGES, before)
        if steps is None or not steps.table.rows.equal(rows):
            self._steps = steps = Steps(
                self._weights, rows, scalars, reserve=self._reserve, goes_back=self._goes_back
            )
        # A single block needs no order: its rows are as long as the longest.
        is_ordered = len(rows.atoms) > 1
        row = torch.from_numpy(np.argsort(order) if is_ordered else np.arange(len(z)))
        steps.lay_out(z, edge_index, counts, row)
        self._row = row if is_ordered else None
        self._edges = z.clone(), edge_index.clone()
        return steps


def _of_atoms(values: Tensor, row: Tensor | None) -> Tensor:
    """Values of atoms from those of rows."""
    return values if row is None else values.index_select(0, row)
