#!/usr/bin/env bash
# adios2 2.12.1 for Python: FileReader.read() of a variable that grows returns the start of each
# step.
#
# Expected: reader.read("energies", step_selection=[2, 1]) returns the third step, whatever its
# length: a global array may change its shape from step to step, and available_variables() gives no
# other shape to ask with. Anything else raises.
# Seen: all steps are read with the shape of the first one. Steps of 1, 2 and 3 values come back as
# three values altogether, the third step alone as one value, and the rest is dropped without a
# word. Going through the same file step by step, with Stream, returns them all.
#
# mtlpar writes one step with global arrays of known length, and compares them with a checksum.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet adios2==2.12.1.1001 numpy
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from adios2 import FileReader, Stream

steps = [np.arange(float(length)) for length in (1, 2, 3)]
with Stream("growing.bp", "w") as stream:
    for values in steps:
        stream.begin_step()
        stream.write("energies", values, [len(values)], [0], [len(values)])
        stream.end_step()
with FileReader("growing.bp") as reader:
    third = reader.read("energies", step_selection=[2, 1])
    all_steps = reader.read("energies", step_selection=[0, 3])
with Stream("growing.bp", "r") as stream:
    in_turn = [stream.read("energies").tolist() for _ in stream.steps()]
print("third step", third.tolist(), "all steps", all_steps.tolist(), "in turn", in_turn)
assert in_turn == [values.tolist() for values in steps]
assert third.tolist() == [0.0]
assert all_steps.tolist() == [0.0, 0.0, 0.0]
PYTHON
