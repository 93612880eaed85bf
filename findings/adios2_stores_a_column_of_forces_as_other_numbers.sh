#!/usr/bin/env bash
# adios2 2.12.1 for Python stores what lies in memory, not what a strided NumPy array holds.
#
# Expected: Stream.write() of a view (every second row, a transposed matrix, a column in Fortran
# order) stores the numbers of the view, as h5py does, or refuses it: its own message for types that
# it does not know speaks of arrays that are "not memory contiguous".
# Seen: no error. The right number of values is taken from where the view starts, one behind the
# other, so x[::2] of 0 1 2 ... is stored as 0 1 2, and a matrix in Fortran order comes back
# scrambled, with the shape that was asked for. Minimum and maximum in the metadata are those of the
# wrong numbers.
#
# mtlpar makes every array contiguous before it writes it, and keeps a checksum of each block.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet adios2==2.12.1.1001 numpy
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from adios2 import FileReader, Stream

matrix = np.arange(6.0).reshape(2, 3)
views = {
    "every_second": np.arange(6.0)[::2],
    "transposed": matrix.T,
    "fortran": np.asfortranarray(matrix),
    "contiguous": matrix,
}
with Stream("views.bp", "w") as stream:
    stream.begin_step()
    for name, view in views.items():
        shape = list(view.shape)
        stream.write(name, view, shape, [0] * view.ndim, shape)
    stream.end_step()
with FileReader("views.bp") as reader:
    stored = {name: reader.read(name) for name in views}
for name, view in views.items():
    print(name, view.tolist(), "stored as", stored[name].tolist())
assert np.array_equal(stored["contiguous"], matrix)
assert stored["every_second"].tolist() == [0, 1, 2]
assert stored["transposed"].tolist() == [[0, 1], [2, 3], [4, 5]]
assert stored["fortran"].shape == (2, 3) and not np.array_equal(stored["fortran"], matrix)
PYTHON
