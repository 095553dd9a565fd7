"""Where the time of a call is measured, and how times between are interpolated from there."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

_MOST_BLOCKS = 6


def grid(size: int, whole: int, block: int) -> list[tuple[int, float]]:
    """The sizes to measure for one size, with their weights.

    Args:
        size: The size asked for.
        whole: The uncut size.
        block: Channels that a kernel works on at once; 0 where time has no stairs.

    Example:
        >>> grid(24, 64, 0)
        [(16, 0.5), (32, 0.5)]
        >>> grid(32, 64, 16)
        [(32, 1.0)]
        >>> grid(17, 64, 16)
        [(17, 1.0)]
    """
    if not block:
        return between(size, sorted({1, -(-whole // 4), -(-whole // 2), whole}))
    ends = block_ends(whole, block)
    start = (size - 1) // block * block
    low, high = start + 1, min(start + block, whole)
    tops = between(high, ends)
    if low == high:
        return tops
    last = (whole - 1) // block * block + 1
    nears = between(low, sorted({1, last, *(end + 1 for end in ends if end < whole)}))
    share = (size - low) / (high - low)
    found: dict[int, float] = {}
    for points, part in ((nears, 1 - share), (tops, share)):
        for point, weight in points:
            found[point] = found.get(point, 0.0) + part * weight
    return [(point, weight) for point, weight in found.items() if weight]


def block_ends(whole: int, block: int) -> list[int]:
    """Ends of blocks to measure: all of them, or some six, evenly, and the first; the whole size last.

    Example:
        >>> block_ends(64, 16), block_ends(100, 16), block_ends(512, 16)
        ([16, 32, 48, 64], [16, 32, 48, 64, 80, 96, 100], [16, 112, 208, 304, 400, 496, 512])
    """
    blocks = whole // block
    if blocks <= _MOST_BLOCKS:
        ends = {block * number for number in range(1, blocks + 1)}
    else:
        stride = -(-blocks // _MOST_BLOCKS)
        ends = {block * number for number in range(1, blocks, stride)}
    return sorted({*ends, whole})


def between(at: float, known: Sequence[float]) -> list[Any]:
    """The two known points around a place, with weights; beyond the ends the nearest.

    Example:
        >>> between(3, [2, 6, 9])
        [(2, 0.75), (6, 0.25)]
    """
    right = bisect_left(known, at)
    if right >= len(known):
        return [(known[-1], 1.0)]
    if right == 0 or known[right] == at:
        return [(known[right], 1.0)]
    left = right - 1
    share = (at - known[left]) / (known[right] - known[left])
    return [(known[left], 1 - share), (known[right], share)]
