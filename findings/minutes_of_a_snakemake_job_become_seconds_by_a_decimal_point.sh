#!/usr/bin/env bash
# Snakemake 9.27.1 takes runtime=150 for minutes and runtime=150.0 for seconds.
#
# Expected: a number without a unit is a number of minutes, whole or not, and a time that is no
# whole number of minutes is rounded up: a scheduler ends jobs that outlive what they asked for.
# Seen: on the command line and in profiles (--default-resources, --set-resources) only digits alone
# are minutes. "150.0" goes to a parser of time spans, whose unit is the second: two minutes. "1.5"
# is one minute. In a rule, the number 150.0 is 150 minutes, the text "150.0" two. And whatever has
# a unit is rounded down: a job that asks for "119s" gets 60 seconds. Sizes, next to it, are rounded
# up.
#
# mtlpar's profiles ask for whole minutes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet snakemake==9.27.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import re
import subprocess
import sys
from pathlib import Path

Path("Snakefile").write_text(
    "rule all:\n"
    "    output: 'asked'\n"
    "    run:\n"
    "        open(output[0], 'w').write(str(resources.runtime))\n"
)


def minutes(*options):
    Path("asked").unlink(missing_ok=True)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *options]
    subprocess.run(command, check=True, capture_output=True)
    return int(re.fullmatch(r"\d+", Path("asked").read_text())[0])


texts = ("150", "150.0", "119s")
seen = {text: minutes("--default-resources", f"runtime={text}") for text in texts}
seen["set 150.0"] = minutes("--set-resources", "all:runtime=150.0")
print("minutes:", seen)
assert seen == {"150": 150, "150.0": 2, "119s": 1, "set 150.0": 2}
PYTHON
