"""Four ranks on two nodes that are held up on purpose; each is a process of a launch.

    mtlpar launch --ranks-per-node 4 -- python tests/delayed_ranks.py FILE

Writes the cause and the culprit that the scaling study finds for each of the delays.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from mtlpar.core.files import write_json
from mtlpar.parallel.ranks import distributed_context

DELAY_S = 0.4
# Batches are built ahead, in two threads.
LOADING_S = 3 * DELAY_S
STEPS = 8


class Delay(NamedTuple):
    """What is slept before a method begins and before it returns."""

    before_s: float
    after_s: float = 0.0


def main() -> None:
    """Hold up ranks in one way after the other and write the verdicts."""
    with distributed_context() as context:
        import numpy as np
        import torch.distributed as dist

        from mtlpar.model.multitask import MultiTaskModel
        from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
        from mtlpar.parallel.agree import gather
        from mtlpar.parallel.layout import ParallelLayout
        from mtlpar.parallel.reduce import GradientReducer
        from mtlpar.study.neighbors import pair_seconds
        from mtlpar.study.steps import StepRunner, StepShape
        from mtlpar.study.verdict import COLUMNS, Steps, judge
        from mtlpar.train.loader import RankLoader

        delays: dict[str, tuple[object, str, tuple[int, ...], Delay]] = {
            "a rank computes longer": (MultiTaskModel, "forward", (2,), Delay(DELAY_S)),
            "a node computes longer": (MultiTaskModel, "forward", (0, 1), Delay(DELAY_S)),
            "a node sends late": (dist, "all_reduce", (2, 3), Delay(DELAY_S)),
            "a node receives late": (GradientReducer, "finish", (2, 3), Delay(0, DELAY_S)),
            "a rank loads slowly": (RankLoader, "_gather", (1,), Delay(LOADING_S)),
            "all ranks load slowly": (RankLoader, "_gather", (0, 1, 2, 3), Delay(LOADING_S)),
        }
        model = ModelSettings(
            encoder=EgnnSettings(width=8, layers=1), head=HeadSettings(width=8, layers=1)
        )
        branches = {"one": 8}
        layout = ParallelLayout.build("mtl-base", cost=branches, world_size=context.world_size)
        shape = StepShape(model=model, branches=branches, atoms=4, layout=layout)
        found = {}
        for name, (owner, method, ranks, delay) in delays.items():
            runner = StepRunner(shape, context, steps_per_epoch=STEPS)
            with _held_up(owner, method, context.rank in ranks, delay):
                rows = gather(runner.trace_epoch())
            columns = dict(zip(COLUMNS, np.array(rows).transpose(2, 0, 1), strict=True))
            verdict = judge(Steps(**columns, ranks_per_node=2))
            found[name] = {"cause": verdict.cause, "culprit": verdict.culprit}
        # Nobody can tell from steps whose network holds up all ranks alike; pairs of nodes can.
        runner = StepRunner(shape, context, steps_per_epoch=STEPS)
        with _held_up(GradientReducer, "finish", True, Delay(DELAY_S)):
            rows = gather(runner.trace_epoch())
        with _held_up(dist, "all_reduce", context.rank == 2, Delay(DELAY_S)):
            pairs = pair_seconds(context, ranks_per_node=1)
        columns = dict(zip(COLUMNS, np.array(rows).transpose(2, 0, 1), strict=True))
        verdict = judge(Steps(**columns, ranks_per_node=1, pair_seconds=pairs))
        found["a node's network is slow"] = {"cause": verdict.cause, "culprit": verdict.culprit}
        if context.rank == 0:
            write_json(Path(sys.argv[1]), found)


@contextmanager
def _held_up(owner: Any, method: str, here: bool, delay: Delay) -> Iterator[None]:
    """Let a method take longer on some ranks."""
    original: Callable[..., Any] = getattr(owner, method)

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(delay.before_s)
        result = original(*arguments, **options)
        time.sleep(delay.after_s)
        return result

    if not here:
        yield
        return
    with mock.patch.object(owner, method, slow):
        yield


if __name__ == "__main__":
    main()
