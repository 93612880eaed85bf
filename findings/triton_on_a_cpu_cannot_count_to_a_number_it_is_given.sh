#!/usr/bin/env bash
# triton 3.6.0's interpreter and NumPy 2.4: a kernel with a loop over an argument does not run.
#
# Expected: with TRITON_INTERPRET=1 a kernel can be tested on a machine without an accelerator,
# loops included; or the package refuses a NumPy that it does not work with.
# Seen: loads, stores, sums, atomics, products of matrices, if and while all work. "for step in
# range(number)" ends in "only 0-dimensional arrays can be converted to Python scalars" if the
# number comes at run time (the atoms or neighbours of a structure, say): the interpreter holds it
# as an array of one element, of which NumPy made no integer any more from 2.4 on. A tl.constexpr,
# or NumPy 2.3 (a warning), works. Nothing in the package's requirements mentions NumPy.
#
# mtlpar's kernels loop over constants only, so tests run them on a CPU.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 triton==3.6.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os

os.environ["TRITON_INTERPRET"] = "1"
import torch
import triton
import triton.language as tl


@triton.jit
def count_for(output, number):
    for step in range(number):
        tl.store(output + step, step)


@triton.jit
def count_constant(output, number: tl.constexpr):
    for step in range(number):
        tl.store(output + step, step)


@triton.jit
def count_while(output, number):
    step = 0
    while step < number:
        tl.store(output + step, step)
        step += 1


def run(kernel):
    output = torch.zeros(4)
    kernel[(1,)](output, 4)
    return output.tolist()


assert run(count_constant) == run(count_while) == [0, 1, 2, 3]
try:
    run(count_for)
except Exception as error:
    print(type(error).__name__, error)
    assert "0-dimensional" in str(error)
else:
    raise SystemExit("the loop runs now")
PYTHON
