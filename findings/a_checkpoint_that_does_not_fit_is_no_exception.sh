#!/usr/bin/env bash
# torch 2.13.0: a failed load of a distributed checkpoint passes by every "except Exception".
#
# Expected: torch.distributed.checkpoint.load() into a tensor of another size raises an error of the
# usual kind, as torch.load and load_state_dict do; "except Exception" around it is enough to try
# the checkpoint before.
# Seen: CheckpointException is a BaseException, like KeyboardInterrupt and SystemExit. A program
# that falls back to an older checkpoint, logs the failure or cleans up on Exception ends instead.
# Its text is the traceback of a rank; the reason ("Size mismatch ...") is the last line of it.
#
# mtlpar names CheckpointException where it loads.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

import torch
import torch.distributed.checkpoint as checkpoint

warnings.simplefilter("ignore")
checkpoint.save({"weights": torch.zeros(4)}, checkpoint_id="step-1")
try:
    try:
        checkpoint.load({"weights": torch.zeros(5)}, checkpoint_id="step-1")
    except Exception as error:
        raise SystemExit("it is an Exception now") from error
except BaseException as error:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    print(" < ".join(kinds), "|", str(error).strip().splitlines()[-1])
    assert kinds == ["CheckpointException", "BaseException", "object"]
PYTHON
