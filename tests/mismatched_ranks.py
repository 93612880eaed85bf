"""`mtlpar` with a fault in one of its ranks, for `parity/test_mismatched_collectives.py`.

The arguments are the rank, the fault, and those of the command line.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist

from mtlpar.cli import main
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.train.step import TrainStep

_AT_STEP = 6


def _spoil(rank: int, fault: str) -> None:
    run, last = TrainStep.run, []

    def spoilt(self: TrainStep, passes: Any, *, step: int, **options: Any) -> Any:
        if self.context.rank != rank or step != _AT_STEP:
            last[:] = [run(self, passes, step=step, **options)]
        elif fault == "doubles a step":
            run(self, passes, step=step, **options)
            last[:] = [run(self, passes, step=step, **options)]
        elif fault == "sums something else":
            dist.all_reduce(torch.zeros(7))
            last[:] = [run(self, passes, step=step, **options)]
        # Else it skips the step, and takes the result of the one before for its own.
        return last[0]

    TrainStep.run = spoilt  # type: ignore[method-assign]


def _enlarge(rank: int) -> None:
    build = MultiTaskModel.__init__

    def built(self: MultiTaskModel, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        if dist.get_rank() == rank:
            self.encoder.register_parameter("more", torch.nn.Parameter(torch.zeros(3)))

    MultiTaskModel.__init__ = built  # type: ignore[method-assign]


if __name__ == "__main__":
    place, what = int(sys.argv[1]), sys.argv[2]
    if what == "holds more":
        _enlarge(place)
    else:
        _spoil(place, what)
    sys.argv[1:3] = []
    sys.exit(main())
