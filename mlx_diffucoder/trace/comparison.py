"""Compare two traces, in numbers."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.result import after_step
from ..statistics import order_agreement
from .autoregressiveness import committed_in, global_autoregressiveness, local_autoregressiveness
from .run import Trace

KS = (1, 2, 4, 8)
"""The k of the autoregressiveness measures."""


def numbers(trace: Trace) -> dict[str, Any]:
    """The cost of a run, and how much it went from left to right, ready for JSON."""
    stats = trace.stats.to_dict()
    del stats["peak_memory_bytes"]
    steps, masked = list(trace.useful_steps()), trace.useful
    return {
        "row": trace.row,
        "model": trace.header["model"],
        "rule": trace.header["config"].get("rule"),
        "window": trace.header["config"].get("window"),
        **stats,
        "steps": len(trace.records),
        "remasked": sum(len(record.remasked) for record in trace.records),
        "inserted": sum(len(record.expanded) for record in trace.records),
        "deleted": sum(len(record.deleted) for record in trace.records),
        "local_autoregressiveness": {str(k): local_autoregressiveness(steps, masked, k) for k in KS},
        "global_autoregressiveness": {str(k): global_autoregressiveness(steps, masked, k) for k in KS},
    }


def agreement(one: Trace, other: Trace) -> dict[str, Any]:
    """Whether two runs wrote the same text, where they first differ, and how similar their orders are, ready for JSON."""
    pairs = list(zip(one.hole_ids, other.hole_ids, strict=True))
    length = sum(max(len(a), len(b)) for a, b in pairs)
    same = sum(int((a[: len(b)] == b[: len(a)]).sum()) for a, b in pairs)
    order = order_agreement(*_commit_steps(one, other))
    return {
        "same_text": one.text == other.text,
        "same_tokens": same / length if length else 1.0,
        "first_difference": first_difference(one, other),
        "order_agreement": order,
        "kendall_tau": None if order is None else 2 * order - 1,
    }


def first_difference(one: Trace, other: Trace) -> int | None:
    """The first step, counted from 1, that changes other tokens or positions; None if there is none."""
    pairs = enumerate(zip_longest(_changes(one), _changes(other)), start=1)
    return next((number for number, (a, b) in pairs if a != b), None)


def _changes(trace: Trace) -> Iterator[list[list[int]]]:
    """The changes of each step. Positions count from the start of their hole: the holes of two runs may differ in length."""
    after = trace.canvas.holes
    for record in trace.records:
        before, after = after, after_step(after, record.deleted, record.expanded)
        found = [record.tokens.tolist()]
        on_after, on_before = (record.committed, record.remasked), (record.deleted, record.expanded)
        for starts, lists in ((after[:, 0], on_after), (before[:, 0], on_before)):
            for at in lists:
                hole = np.maximum(np.searchsorted(starts, at, side="right") - 1, 0)
                found += [hole.tolist(), (at - starts[hole]).tolist()]
        yield found


def _commit_steps(one: Trace, other: Trace) -> list[NDArray[np.int32]]:
    """For each position that both runs have, the step that wrote it, for either run.

    These are the positions before the holes, and in each hole those of the shorter text.
    """
    steps = [committed_in(trace.on_final.records, len(trace.final)) for trace in (one, other)]
    spans = [[(0, trace.canvas.start), *trace.spans] for trace in (one, other)]
    lengths = [min(end - start for start, end in pair) for pair in zip(*spans, strict=True)]
    return [
        np.concatenate([when[start : start + length] for (start, _), length in zip(found, lengths, strict=True)])
        for when, found in zip(steps, spans, strict=True)
    ]
