"""Parts of a table of edges that are computed together, and memory to do so.

The names are those of the formula of `mtlpar.model.egnn.inference`, for n = a M edges of a atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtlpar.model.egnn.edge_table import EdgeTable, SenderSums


class Messages:
    """What the messages of one block and layer leave for the backward pass.

    Attributes:
        hidden: p, (n, F); ``hidden_rows`` are the same numbers as (a, M, F).
        inner: z, (n, F).
        activated: silu(z), (n, F).
        weight: W_f e, (n, F).
        message: m, (n, F); ``message_rows`` as (a, M, F).
        lengths: W_c m, (n, C); ``lengths_rows`` as (a, M, C).
        carried: V_j, (3, n, C); ``carried_flat`` as (3 n, C), ``carried_rows`` as (3, a, M, C).
    """

    def __init__(self, memory: Tensor, size: tuple[int, int, int, int]) -> None:
        """Take memory.

        Args:
            memory: As many numbers as `numbers` says.
            size: a, M, F and C.
        """
        atoms, columns, width, channels = size
        edges = atoms * columns
        *wide, lengths, carried = torch.split(
            memory, [edges * width] * 5 + [edges * channels, 3 * edges * channels]
        )
        self.hidden, self.inner, self.activated, self.weight, self.message = (
            values.view(edges, width) for values in wide
        )
        self.hidden_rows, self.message_rows = (
            values.view(atoms, columns, width) for values in (self.hidden, self.message)
        )
        self.lengths = lengths.view(edges, channels)
        self.lengths_rows = self.lengths.view(atoms, columns, channels)
        self.carried = carried.view(3, edges, channels)
        self.carried_flat = self.carried.flatten(0, 1)
        self.carried_rows = self.carried.view(3, atoms, columns, channels)

    @staticmethod
    def numbers(edges: int, width: int, channels: int) -> int:
        """How many numbers are left of n edges."""
        return edges * (5 * width + 4 * channels)


class Block:
    """Consecutive atoms whose edges are computed together, and memory to do so.

    Attributes:
        messages: Of each layer; all the same if they are computed again.
        sender: (n,) atoms that send.
        unit: (3, n, 1) unit vectors.
        ends: (a, M, 4); ``ends_by_column`` are the same numbers as (a, 4, M).
        radial: (n, K) radial functions.
        features: (n, C + K) of scratch: ``along``, and another copy of radial functions.
        wide: (n, F) of scratch, as ``other``; ``..._rows`` are the same numbers as (a, M, F).
        narrow: (n, C) of scratch; ``narrow_rows`` as (a, M, C).
        products: (3, n, C) of scratch; ``products_flat`` as (3 n, C), ``products_rows`` as
            (3, a, M, C).
        lengths: (3 n,) of scratch.
    """

    def __init__(
        self,
        atoms: slice,
        places: slice,
        table: EdgeTable,
        memory: Tensor,
        messages: list[Messages],
    ) -> None:
        """Look at a part of the table.

        Args:
            atoms: Which rows.
            places: Where their edges lie.
            table: The edges of all atoms.
            memory: Numbers for the scratch, of which other blocks may have the same.
            messages: Of each layer.
        """
        self.messages, self._atoms, self._places = messages, atoms, places
        self._all_atoms = int(table.rows.atoms.sum())
        edges, width = messages[0].hidden.shape
        count = atoms.stop - atoms.start
        columns = edges // count
        channels = messages[0].lengths.shape[1]
        self.sender, self.unit = self.of_edges(table.sender), self.of_axes(table.unit)[:, :, None]
        self.senders = self.sender.new_empty(3 * edges)
        self.ends = self.of_edges(table.ends).view(count, columns, 4)
        self.radial = self.of_edges(table.radial)
        self.ends_by_column = self.ends.transpose(1, 2)
        size = channels + self.radial.shape[1]
        numbers = [edges * each for each in (width, width, size, channels, 3 * channels, 3)]
        wide, other, features, narrow, products, self.lengths = torch.split(
            memory[: sum(numbers)], numbers
        )
        self.features = features.view(edges, size)
        self.along, self.radial_again = self.features.tensor_split((channels,), dim=1)
        self.wide, self.other = wide.view(edges, width), other.view(edges, width)
        self.wide_rows, self.other_rows = (
            values.view(count, columns, width) for values in (wide, other)
        )
        self.narrow = narrow.view(edges, channels)
        self.narrow_rows = narrow.view(count, columns, channels)
        self.products = products.view(3, edges, channels)
        self.products_flat = products.view(3 * edges, channels)
        self.products_rows = products.view(3, count, columns, channels)

    def of(self, atom_values: Tensor) -> Tensor:
        """What belongs to the block of (A, ...)."""
        return atom_values[self._atoms]

    def of_vectors(self, vectors: Tensor) -> Tensor:
        """What belongs to the block of (3, A, C)."""
        return vectors[:, self._atoms]

    def of_edges(self, edge_values: Tensor) -> Tensor:
        """What belongs to the block of values of all edges."""
        return edge_values[self._places]

    def of_axes(self, edge_vectors: Tensor) -> Tensor:
        """What belongs to the block of vectors of all edges, axis first."""
        return edge_vectors[:, self._places]

    def of_ends(self, values: Tensor) -> Tensor:
        """What belongs to the block of three numbers for each edge, (a, 3, M)."""
        count, columns, _ = self.ends.shape
        return values[self._places].view(count, 3, columns)

    def find_senders(self) -> None:
        """Look at who sends, after the edges were given their places."""
        axes = torch.arange(3, device=self.sender.device)[:, None] * self._all_atoms
        torch.add(self.sender, axes, out=self.senders.view(3, -1))
        self._sums: SenderSums | None = None

    def add_to_senders(self, values: Tensor, sums: Tensor) -> None:
        """Add (n, F) to (A, F)."""
        self._sender_sums().add(values, sums)

    def add_vectors_to_senders(self, vectors: Tensor, sums: Tensor) -> None:
        """Add (3 n, C) to (3 A, C)."""
        self._sender_sums().add_vectors(vectors, sums)

    def _sender_sums(self) -> SenderSums:
        """Made when first asked for: direct forces need none."""
        if self._sums is None:
            self._sums = SenderSums(self.sender, self._all_atoms)
        return self._sums
