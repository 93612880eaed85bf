"""Loading a model file, whose digest is compared, beside loading it without one.

    python benchmarks/load_model.py

Both ways run in turns in one process on one thread; times are those of the process, the best of
all rounds. Without a digest means: read the file, draw a network and copy the weights into it, as
`mtlpar.load_model` did before files had a digest. The largest model is that of the paper's size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from machine import describe_machine

import mtlpar
from mtlpar.core.references import References
from mtlpar.model.digest import content_digest
from mtlpar.model.file import save_model
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings

BRANCHES: Final = ("a", "b", "c", "d", "e")
SIZES: Final = {"quickstart": (64, 64), "middle": (256, 256), "paper": (866, 889)}
"""Width of encoder and heads by name."""
TARGET: Final = 1.05


def write_model(path: Path, encoder: int, head: int) -> None:
    """A model with random weights and five branches."""
    settings = ModelSettings(
        encoder=EgnnSettings(width=encoder, layers=4, vector_channels=16, radial_basis=16),
        head=HeadSettings(width=head, layers=3),
    )
    save_model(
        path,
        state=MultiTaskModel(settings, BRANCHES, seed=0).state_dict(),
        settings=settings,
        branches={name: (name,) for name in BRANCHES},
        references={name: References({"H": -13.6}) for name in BRANCHES},
        level_of_theory=dict.fromkeys(BRANCHES, "none"),
        training={},
    )


def load_without_digest(path: Path) -> MultiTaskModel:
    """Load a model file as it was done before files had a digest."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    settings = ModelSettings.model_validate(content["settings"])
    network = MultiTaskModel(settings, content["branches"], seed=0)
    network.load_state_dict(content["state"])
    return network.eval()


def best_ms(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Shortest time of the process in ms by call, taken in turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def main() -> None:
    """Print a line for each size of a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine())
    print(f"best of {options.rounds} rounds, one thread; ms; target of the ratio <= {TARGET}\n")
    print(f"{'model':12}{'MB':>8}{'load':>9}{'without':>9}{'ratio':>7}{'digest alone':>14}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        for name, widths in SIZES.items():
            write_model(path, *widths)
            content = torch.load(path, weights_only=True)
            found = best_ms(
                {
                    "load": lambda: mtlpar.load_model(path),
                    "without": lambda: load_without_digest(path),
                    "digest": lambda content=content: content_digest(content),
                },
                options.rounds,
            )
            ratio = found["load"] / found["without"]
            print(
                f"{name:12}{path.stat().st_size / 1e6:8.1f}{found['load']:9.1f}"
                f"{found['without']:9.1f}{ratio:7.2f}{found['digest']:14.1f}"
            )


if __name__ == "__main__":
    main()
