#!/usr/bin/env bash
# PyTorch 2.13.0: make_fx with symbolic sizes takes inputs that look alike for one and the same.
#
# Expected: the graph of a function of two inputs depends on both, and a function of any number of
# rows gives a graph for any number of rows; that is what tracing_mode="symbolic" is for.
# Seen: traced with one tensor of zeros for two inputs (charges and spins, say), the graph never
# reads one of them, and answers all the same. Traced with four rows where another input has a side
# of four that is unpacked, the number four stands in the graph: whatever number of rows is given,
# four come back. Nothing is warned of in either case.
#
# mtlpar traces with inputs of which no tensor and no size comes twice, and tests every exported
# graph on structures of several sizes with charge and spin apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
from torch.fx.experimental.proxy_tensor import make_fx


def difference(charge, spin):
    return charge - 2 * spin


zeros = torch.zeros(3)
graph = make_fx(difference, tracing_mode="symbolic")(zeros, zeros)
charge, spin = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 5.0, 9.0])
found, right = graph(charge, spin), difference(charge, spin)
print("torch", torch.__version__, "charge - 2 spin:", found.tolist(), "instead of", right.tolist())
unread = [node for node in graph.graph.find_nodes(op="placeholder") if not node.users]
assert len(unread) == 1
assert not torch.equal(found, right)

apart = make_fx(difference, tracing_mode="symbolic")(zeros, torch.zeros(3))
assert torch.equal(apart(charge, spin), right)


def sums(sides, kind, values):
    first, *_ = sides.unbind(0)
    return values.new_zeros(kind.shape[0]).index_add(0, first, values)


def given(rows):
    sides = torch.tensor([[0, 1], [0, 0], [0, 0], [0, 0]])
    return sides, torch.zeros(rows), torch.ones(2)


graph = make_fx(sums, tracing_mode="symbolic")(*given(4))
sizes = {rows: tuple(graph(*given(rows)).shape) for rows in (3, 4, 5)}
print("rows and what comes back, traced with 4:", sizes)
assert sizes == {3: (4,), 4: (4,), 5: (4,)}
graph = make_fx(sums, tracing_mode="symbolic")(*given(7))
assert graph(*given(5)).shape == (5,)
PYTHON
