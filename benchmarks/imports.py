"""CPU seconds until a process can begin: what it imports, and what it would with more.

    python benchmarks/imports.py [--rounds 5]

Each line is a process of its own; the least of the rounds counts, and rounds alternate between
lines. "with torch_geometric" is what every rank and command of a model paid while batches were
PyTorch Geometric's.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

from machine import describe_machine

_TRAINING = "import mtlpar.train.stage"
PROCESSES = {
    "import torch": ("-c", "import torch"),
    "training": ("-c", _TRAINING),
    "training with torch_geometric": ("-c", f"{_TRAINING}; import torch_geometric.data"),
    "mtlpar --help": ("-m", "mtlpar", "--help"),
    "mtlpar info, a wrong path": ("-m", "mtlpar", "info", "no_such_model.pt"),
}


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    """CPU seconds of a Python with these arguments, in user and system mode."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print every measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    options = parser.parse_args()
    print(describe_machine())
    least = dict.fromkeys(PROCESSES, float("inf"))
    for _ in range(options.rounds):
        for name, arguments in PROCESSES.items():
            least[name] = min(least[name], cpu_seconds(arguments))
    for name, seconds in least.items():
        print(f"  {name:<32}{seconds:6.2f} s")
    ratio = least["training with torch_geometric"] / least["training"]
    print(f"with torch_geometric: {ratio:.2f} times the CPU seconds of training without")


if __name__ == "__main__":
    main()
