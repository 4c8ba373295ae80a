"""The positions torch.topk returns among equal scores.

Scores are often exactly equal, even in float32: with top-p, or a sure model, one token is left at many positions, and
all of them have the same score. The reference decoder commits what `torch.topk` returns on a CPU, which is whatever
libstdc++'s selection leaves in front: `std::partial_sort` for small k, `std::nth_element` otherwise. Only
`reference=True` selects in that order; elsewhere the leftmost of equal scores is taken.

This module gives the same set of k positions. Their order differs, and the reference decoder does not use it.
Source: ATen's TopKImpl.h, and the introselect and heap-select of libstdc++'s stl_algo.h and
stl_heap.h, written from their behaviour and tested against recorded answers of torch 2.13.
"""

from collections.abc import Sequence

Entry = tuple[float, int]  # score, position
PARTIAL_SORT_FACTOR = 64  # k * 64 <= n: torch sorts partially


def torch_topk(scores: Sequence[float], k: int) -> list[int]:
    """The positions of the k largest of `scores`, ascending; of equal scores, those that torch.topk takes on a CPU."""
    entries = [(float(score), position) for position, score in enumerate(scores)]
    if 0 < k < len(entries):
        if k * PARTIAL_SORT_FACTOR <= len(entries):
            _heap_select(entries, 0, k, len(entries))
        else:
            _nth_element(entries, k - 1)
    return sorted(position for _, position in entries[:k])


def _before(a: Entry, b: Entry) -> bool:
    return a[0] > b[0]


def _nth_element(v: list[Entry], nth: int) -> None:
    """Quickselect that falls back to a heap when its pivots are bad for too long."""
    first, last = 0, len(v)
    depth = 2 * (last.bit_length() - 1)
    while last - first > 3:
        if depth == 0:
            _heap_select(v, first, nth + 1, last)
            v[first], v[nth] = v[nth], v[first]
            return
        depth -= 1
        cut = _partition(v, first, last)
        first, last = (cut, last) if cut <= nth else (first, cut)
    # Three entries or fewer are sorted by insertion, which like Python's sort keeps ties in order.
    v[first:last] = sorted(v[first:last], key=lambda entry: -entry[0])


def _partition(v: list[Entry], first: int, last: int) -> int:
    """Hoare's partition around the median of the second, the middle and the last entry."""
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    if _before(v[a], v[b]):
        median = b if _before(v[b], v[c]) else c if _before(v[a], v[c]) else a
    else:
        median = a if _before(v[a], v[c]) else c if _before(v[b], v[c]) else b
    v[first], v[median] = v[median], v[first]
    pivot = v[first]
    low, high = first + 1, last
    while True:
        while _before(v[low], pivot):
            low += 1
        high -= 1
        while _before(pivot, v[high]):
            high -= 1
        if low >= high:
            return low
        v[low], v[high] = v[high], v[low]
        low += 1


def _heap_select(v: list[Entry], first: int, middle: int, last: int) -> None:
    """Bring the largest entries of [first, last) into [first, middle), a heap with the worst on top."""
    size = middle - first
    for parent in range((size - 2) // 2, -1, -1):
        _sift(v, first, parent, size, v[first + parent])
    for i in range(middle, last):
        if _before(v[i], v[first]):
            entry, v[i] = v[i], v[first]
            _sift(v, first, 0, size, entry)


def _sift(v: list[Entry], first: int, hole: int, size: int, entry: Entry) -> None:
    """Let the hole sink to a leaf along the worse children, then lift `entry` from there."""
    top = hole
    child = hole
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if _before(v[first + child], v[first + child - 1]):
            child -= 1
        v[first + hole] = v[first + child]
        hole = child
    if size % 2 == 0 and child == (size - 2) // 2:
        child = 2 * child + 1
        v[first + hole] = v[first + child]
        hole = child
    while hole > top and _before(v[first + (hole - 1) // 2], entry):
        v[first + hole] = v[first + (hole - 1) // 2]
        hole = (hole - 1) // 2
    v[first + hole] = entry
