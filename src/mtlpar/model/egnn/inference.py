"""The EGNN for one structure, and the gradient of its energy by the edge vectors, written out.

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
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mtlpar.model.egnn.encoder import EgnnEncoder
from mtlpar.model.egnn.plain_weights import PlainWeights
from mtlpar.model.egnn.steps import Steps
from mtlpar.model.encoder import AtomFeatures
from mtlpar.model.heads import Branch


class EgnnInference:
    """Encoder and one branch, ready for one structure after another.

    It has the weights of the moment when it is made. What it returns holds until it is asked again.
    """

    def __init__(self, encoder: EgnnEncoder, branch: Branch) -> None:
        """Take the weights of an encoder and of a branch."""
        self._weights = PlainWeights(encoder, branch)
        self._shape = (0, 0)
        self._steps: Steps | None = None
        self._edges: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What copies begin with: weights. Programs would write into the memory of this one."""
        return {"_weights": self._weights, "_shape": (0, 0), "_steps": None, "_edges": None}

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
        steps = self._run_forward(scalars, z, edge_index, vector)
        added = [after - before for before, after in pairwise(steps.vectors)]
        return AtomFeatures(steps.normalised, torch.cat(added, dim=2).permute(1, 2, 0))

    @torch.inference_mode()
    def energies_and_gradient(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energies of the atoms, and the gradient of their sum by the edge vectors.

        Args:
            scalars: As for `features`, like the other arguments.
            z: As there.
            edge_index: As there.
            vector: As there.

        Returns:
            Energies without references in eV, (A,), derivatives in eV/Å, (3, E), and what the
            energies are linear in, (A, H).
        """
        steps = self._run_forward(scalars, z, edge_index, vector)
        steps.backward()
        return steps.energies[:, 0], steps.gradient(), steps.last

    def _run_forward(self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor) -> Steps:
        """Run with the memory of the step before, and its places of the edges, if they fit."""
        steps = self._steps_for(scalars, z, edge_index)
        steps.table.measure(vector)
        steps.scalars[0].copy_(scalars)
        steps.forward()
        return steps

    def _steps_for(self, scalars: Tensor, z: Tensor, edge_index: Tensor) -> Steps:
        steps, edges = self._steps, self._edges
        if steps and edges and all(map(torch.equal, edges, (z, edge_index))):
            return steps
        self._edges = None
        counts = torch.bincount(edge_index[1], minlength=len(z))
        atoms, columns = self._shape
        columns = max(columns if atoms == len(z) else 0, int(counts.max()), 1)
        if steps is None or self._shape != (len(z), columns):
            self._shape = (len(z), columns)
            self._steps = steps = Steps(self._weights, self._shape, scalars)
        steps.lay_out(z, edge_index, counts)
        self._edges = z.clone(), edge_index.clone()
        return steps
