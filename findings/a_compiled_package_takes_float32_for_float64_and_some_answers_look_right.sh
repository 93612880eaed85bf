#!/usr/bin/env bash
# PyTorch 2.13.0: a package by AOTInductor reads numbers of single precision as double ones.
#
# Expected: given positions of another type than those it was compiled for, a package refuses them,
# as the exported program that it was made from does where that has a check in its graph.
# Seen: it reads the bytes as they are, gives whatever comes out, and the check is dropped when the
# program is compiled. What does not depend on the positions stays right, so in a batch some
# energies look like energies. With AOTI_RUNTIME_CHECK_INPUTS=1 in the environment it refuses them.
#
# mtlpar writes the exported program, with its check, and says what to set where it is compiled.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cd "$work"
cat > package.py <<'PYTHON'
import sys

import torch


class Energy(torch.nn.Module):
    def forward(self, positions):
        torch.ops.aten._assert_tensor_metadata.default(positions, dtype=torch.float64)
        return -13.6 + 0.5 * positions.square()


if sys.argv[1] == "make":
    rows = {"positions": {0: torch.export.Dim("rows")}}
    program = torch.export.export(
        Energy(), (torch.zeros(8, dtype=torch.float64),), dynamic_shapes=rows
    )
    try:
        program.module()(torch.zeros(8))
        raise SystemExit("the exported program takes them too")
    except RuntimeError as error:
        print("torch", torch.__version__, "the exported program:", str(error).split("\n")[0])
    torch._inductor.aoti_compile_and_package(program, package_path="energy.pt2")
else:
    package = torch._inductor.aoti_load_package("energy.pt2")
    # Part of a longer array, so that what is read lies in it.
    positions = torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, *[0.0] * 8])[:8]
    right = Energy()(positions.double())
    try:
        found = package(positions)
    except Exception as error:
        print("refused:", str(error).split("\n")[0])
        raise SystemExit(3)
    print("taken:", found.tolist(), "instead of", right.tolist())
    assert found[0] == right[0]
    assert not torch.equal(found, right)
PYTHON
"$work/venv/bin/python" package.py make
"$work/venv/bin/python" package.py run
status=0
AOTI_RUNTIME_CHECK_INPUTS=1 "$work/venv/bin/python" package.py run 2>/dev/null || status=$?
test "$status" = 3
