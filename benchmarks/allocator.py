"""CPU seconds of a small training step with and without memory that the process keeps.

    python benchmarks/allocator.py [--rounds 20] [--repeats 3]

A step of `benchmarks/conservative.py` on molecules, once as `mtlpar.parallel.allocator` sets the C
library and once as it comes. Each process measures one; processes alternate, the best step counts.
"""

from __future__ import annotations

import itertools
import resource

import torch
from conservative import TIMED, make_batch, make_network, step
from fresh import best_seconds, measure_apart, read_options
from machine import describe_machine

from mtlpar.parallel.allocator import keep_freed_memory

HOW = ("kept", "given back")
FORCES = {"direct": "direct", "conservative": "blocks"}


def measure(forces: str, how: str, rounds: int) -> None:
    """Print seconds of the best step and page faults of a step."""
    if how == "kept" and not keep_freed_memory():
        raise SystemExit("the C library of this system does not know mallopt")
    torch.set_num_threads(1)
    network, batch = make_network(FORCES[forces]), make_batch("molecules", TIMED["molecules"])
    step(network, batch)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    best = best_seconds(lambda: step(network, batch), rounds)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    print(best, faults / rounds)


def main() -> None:
    """Print every measurement."""
    options = read_options(__doc__, measured=2)
    if options.measure:
        measure(*options.measure, options.rounds)
        return
    print(describe_machine())
    for forces in FORCES:
        best = dict.fromkeys(HOW, (float("inf"), 0.0))
        for _, how in itertools.product(range(options.repeats), HOW):
            seconds, faults = measure_apart(__file__, forces, how, rounds=options.rounds)
            best[how] = min(best[how], (seconds, faults))
        for how, (seconds, faults) in best.items():
            print(f"{forces}, {how}: {1e3 * seconds:.1f} ms, {faults:.0f} page faults a step")
        print(f"  ratio of kept to given back: {best['kept'][0] / best['given back'][0]:.2f}")


if __name__ == "__main__":
    main()
