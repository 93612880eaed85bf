from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
import torch

from mtlpar.core.large_pages import empty_in_large_pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3 * 2**20 + 1])
def test_memory_holds_as_many_numbers_as_asked_for(count: int, dtype: torch.dtype) -> None:
    # The larger one is of large pages, whose last one it fills in part.
    found = empty_in_large_pages(count, dtype)
    found.copy_(torch.arange(count, dtype=dtype))
    assert (found.shape, found.dtype) == ((count,), dtype)
    assert found[-1] == count - 1


def test_what_is_large_is_asked_for_in_large_pages_where_the_kernel_has_them() -> None:
    if not (
        hasattr(mmap, "MADV_HUGEPAGE") and Path("/sys/kernel/mm/transparent_hugepage").exists()
    ):
        pytest.skip("no large pages")
    # Memory that other processes could share, which Python gives by default, never gets them.
    assert "hg" in _flags_of(empty_in_large_pages(2**20, torch.float32))


def test_what_is_small_comes_from_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its pages are not looked at: NumPy asks for large ones in the heap, which others get later.
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pages of its own")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert len(empty_in_large_pages(1, torch.float32)) == 1
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with pytest.raises(AssertionError, match="pages of its own"):
            empty_in_large_pages(2**20, torch.float32)


def _flags_of(tensor: torch.Tensor) -> list[str]:
    """What Linux knows of the pages that a tensor lies in."""
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        start, end = (int(edge, 16) for edge in mapping.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            (flags,) = re.findall("VmFlags: (.*)", mapping)
            return [*flags.split()] if " rw-p " in mapping else []
    raise AssertionError("no such memory")
