#!/usr/bin/env bash
# The Slurm plugin of Snakemake (2.8.0) asks for 1 GB and 10 minutes for a job of 64 GB and 10 hours.
#
# Expected: jobs of one rule that differ in memory or time become different arrays, as Slurm gives
# all tasks of one array the same, or the largest wish counts, or there is a word about it.
# Seen: with --slurm-array-jobs all jobs of a rule that are ready become one array with the memory,
# time, cores, account and partition of whichever comes first. The log of the run lists each job with
# what it wanted. Without the option both get what they want. What depends on wildcards (a large
# source, a small one) or on the attempt (retries with more memory) is lost that way.
#
# mtlpar's shares of a source all want the same; profiles/README.md says so to others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet snakemake==9.27.1 snakemake-executor-plugin-slurm==2.8.0
mkdir "$work/clients"
cd "$work"
cat >Snakefile <<'RULES'
rule all:
    input: "large.out", "small.out"

rule work:
    output: "{size}.out"
    resources:
        mem_mb=lambda wildcards: {"small": 1000, "large": 64000}[wildcards.size],
        runtime=lambda wildcards: {"small": 10, "large": 600}[wildcards.size],
    shell: "touch {output}"
RULES
# Stand-ins for Slurm's clients: what is asked for is written down, and nothing is started.
client() { cat >"clients/$1" && chmod +x "clients/$1"; }
client sbatch <<<$'#!/bin/sh\necho "$*" >>asked\nexit 1'
client scontrol <<<$'#!/bin/sh\necho "MaxArraySize = 1001"'
client sacctmgr <<<$'#!/bin/sh\necho project'
for name in sshare squeue sacct sinfo scancel; do
    client "$name" <<<$'#!/bin/sh\necho project'
done
"$work/venv/bin/python" - <<'PYTHON'
import os
import re
import subprocess
import sys
from pathlib import Path

FREE = {"PATH": f"{Path('clients').resolve()}:{os.environ['PATH']}"}
SLURM = ("--executor", "slurm", "--jobs", "9")
WHERE = ("--default-resources", "slurm_account=project", "slurm_partition=main")


def asked(*options):
    """Minutes, MB and tasks of each call of sbatch."""
    Path("asked").unlink(missing_ok=True)
    command = [sys.executable, "-m", "snakemake", *SLURM, *WHERE, *options]
    subprocess.run(command, capture_output=True, env={**os.environ, **FREE})
    # A little memory is added for the array's own program.
    return sorted(
        (int(minutes), round(int(megabytes), -3), tasks)
        for minutes, megabytes, tasks in re.findall(
            r" -t (\d+) --mem (\d+) .*?(?:--array=(\S+) )?--wrap=", Path("asked").read_text()
        )
    )


jobs, array = asked(), asked("--slurm-array-jobs=work")
print("jobs:", jobs)
print("array:", array)
assert jobs == [(10, 1000, ""), (600, 64000, "")]
assert array in ([(10, 1000, "1-2")], [(600, 64000, "1-2")])
PYTHON
