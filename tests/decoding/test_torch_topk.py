import json
import random

from mlx_diffucoder.decoding import torch_topk as ties
from mlx_diffucoder.decoding.torch_topk import _heap_select, torch_topk

from ..conftest import DATA

RECORDED = [json.loads(line) for line in (DATA / "torch_topk.jsonl").read_text().splitlines()]


def scores_of(text):
    return [float("-inf") if char == "-" else int(char) / 4 for char in text]


def test_ties_are_taken_as_torch_takes_them():
    """160 answers of torch 2.13 on a CPU, up to 130 scores of 1 to 10 levels."""
    assert len(RECORDED) == 160
    for case in RECORDED:
        assert torch_topk(scores_of(case["scores"]), case["k"]) == case["topk"], case


def test_the_recorded_ties_are_not_simply_leftmost():
    leftmost = 0
    for case in RECORDED:
        scores = scores_of(case["scores"])
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[: case["k"]]
        leftmost += sorted(best) == case["topk"]
    assert leftmost < 100  # of 160


def test_none_and_all():
    assert torch_topk([1.0, 1.0], 0) == []
    assert torch_topk([1.0, 1.0], 2) == [0, 1]


def test_bad_pivots_end_in_the_heap_as_in_torch(monkeypatch):
    """An order that makes every median of three a bad pivot: quickselect's depth runs out."""
    heaps = []
    monkeypatch.setattr(ties, "_heap_select", lambda *args: heaps.append(_heap_select(*args)))
    case = json.loads((DATA / "torch_topk_heap.json").read_text())
    assert torch_topk(case["scores"], case["k"]) == case["topk"]
    assert len(heaps) == 1


def test_scores_without_ties_are_ranked_whatever_their_order():
    """Of so many that the heap is used, too."""
    rng = random.Random(0)
    for count, k in [(2_000, 31), (2_000, 30), (600, 9), (200, 3), (130, 2), (90, 40)] * 20:
        scores = [rng.random() for _ in range(count)]
        assert torch_topk(scores, k) == sorted(sorted(range(count), key=lambda i: -scores[i])[:k])
