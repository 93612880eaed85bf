#!/usr/bin/env bash
# A package that torch 2.13.0's AOTInductor made ignores how a tensor lies in memory.
#
# Expected: a model that was exported and compiled with torch._inductor.aoti_compile_and_package, as
# NequIP and others ship theirs, gives the same energy for equal positions, whether they came in
# rows or as the transpose of a (3, n) array; or it says which layout it was compiled for. The
# exported program itself, before it is compiled, does the former.
# Seen: the layout of the example is compiled in and not checked. Positions in column order are read
# as other positions: other energies, no message. A variable of the environment switches checks on;
# it is off unless set.
#
# mtlpar ships no compiled packages. Those who compile its exported models: pass x.contiguous().
# This script needs a C++ compiler.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch


class Energy(torch.nn.Module):
    def forward(self, positions):
        return (positions * positions).sum(-1)


rows = torch.arange(12, dtype=torch.float64).reshape(4, 3)
columns = rows.t().contiguous().t()
assert torch.equal(rows, columns)
atoms = torch.export.Dim("atoms", min=2, max=100)
exported = torch.export.export(Energy(), (rows[:2],), dynamic_shapes=({0: atoms},))
path = torch._inductor.aoti_compile_and_package(exported, package_path="model.pt2")
compiled = torch._inductor.aoti_load_package(path)
right, wrong = compiled(rows), compiled(columns)
print("rows", right.tolist(), "columns", wrong.tolist())
assert torch.equal(right, exported.module()(columns))
assert not torch.allclose(right, wrong)
PYTHON
