"""No split may end up empty: what left it so, and the ways out."""

from __future__ import annotations

from typing import Final

import numpy as np

from mtlpar.core.fields import SPLITS
from mtlpar.core.hashing import UInt64Array
from mtlpar.core.ledger import Ledger, SplitBy
from mtlpar.core.wording import counted

_OWN: Final = "give splits of your own (custom_sources.{source}.splits)"
_FRAMES: Final = "deal single frames at random (normalize.split.{source}=frames)"
_WAYS_OUT: Final[dict[SplitBy, str]] = {
    "groups": "Add data of other groups (molecules, reactions, materials), name smaller groups by "
    f"group_key, {_OWN}, cut each group in its order (normalize.split.{{source}}=blocks), or "
    f"{_FRAMES}",
    "frames": f"Add structures, or {_OWN}",
    "blocks": "Blocks leaves groups of less than three frames to train, and with a frame its "
    "copies. Deal whole groups (normalize.split.{source}=groups), name larger groups by group_key, "
    f"{_OWN}, or {_FRAMES}",
    "given": "Give each split files whose structures can be used (custom_sources.{source}.splits), "
    "or give none to have them dealt",
}


def require_every_split(source: str, ledger: Ledger, group: UInt64Array) -> None:
    """Make sure that there is something to train, validate and test on.

    Args:
        source: Name of the source.
        ledger: Its books.
        group: Hash of the group of each extracted structure, (S,).

    Raises:
        ValueError: If a split is empty; the message says where all rows went, and the ways out.
    """
    empty = [name for name in SPLITS if not ledger.splits[name]]
    if not empty:
        return
    splits = ", ".join(f"{ledger.splits[name]} {name}" for name in SPLITS)
    dropped = ", ".join(f"{count} {reason}" for reason, count in ledger.dropped.items())
    ways = _WAYS_OUT[ledger.split_by].format(source=source)
    if ledger.dropped["element_not_in_train"]:
        ways = (
            "Structures whose elements are not in train cannot be used: see that train has every "
            f"element. {ways}"
        )
    raise ValueError(
        f"{source}: no structure for {' and '.join(empty)}, expected at least one in each of "
        f"train, val and test. {counted(ledger.rows, 'row')} of "
        f"{counted(len(np.unique(group)), 'group')} = {splits}, "
        f"dropped: {dropped or 'none'}, dealt by {ledger.split_by}. {ways}"
    )
