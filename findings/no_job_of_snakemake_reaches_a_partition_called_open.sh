#!/usr/bin/env bash
# Snakemake 9.27.1 takes the partitions "all" and "open" for functions of Python, and stops.
#
# Expected: slurm_partition=open asks for the partition open, as slurm_partition=gpu for gpu. Both
# names are in use, "all" where there is one partition.
# Seen: a text in --default-resources, --set-resources or a profile is evaluated as Python, and is
# the text itself only if that fails. "gpu" fails; "open" is a function, and the run ends with
# "Resource must be evaluated within the context of a rule", also a dry run, which names neither the
# resource nor its value. "threads" and "attempt" are taken without a word: the project "attempt" is
# charged as "1". Quotes inside of the quotes help: "'open'".
#
# mtlpar's profiles name no such partition; docs/machines.md says what to write.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet snakemake==9.27.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from pathlib import Path

Path("Snakefile").write_text(
    "rule all:\n"
    "    output: 'asked'\n"
    "    run:\n"
    "        open(output[0], 'w').write(str(resources.slurm_partition))\n"
)


def asked(partition):
    Path("asked").unlink(missing_ok=True)
    options = ["--default-resources", f"slurm_partition={partition}"]
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    message = "Resource must be evaluated within the context of a rule"
    assert (done.returncode == 0) != (message in done.stdout + done.stderr)
    return Path("asked").read_text() if done.returncode == 0 else "refused"


seen = {name: asked(name) for name in ("gpu", "open", "all", "attempt", "'open'")}
print(seen)
assert seen == {
    "gpu": "gpu", "open": "refused", "all": "refused", "attempt": "1", "'open'": "open",
}
PYTHON
