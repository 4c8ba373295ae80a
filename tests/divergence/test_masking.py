"""Canvases with some tokens masked: each token once in every pair."""

import numpy as np
import pytest

from mlx_diffucoder.data import Text
from mlx_diffucoder.divergence.masking import batches, masked_canvases

TEXTS = [Text((1, 2), tuple(range(10, 10 + length))) for length in (1, 2, 3, 7, 40)]


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("ratios", [(0.25,), (0.25, 0.5, 0.75, 1.0), (0.1,), (1.0,)])
def test_each_token_is_masked_exactly_once_in_every_pair(ratios, draws):
    canvases = masked_canvases(TEXTS, 99, ratios=ratios, draws=draws)
    pairs = sum(draws if ratio < 1 else 1 for ratio in {min(ratio, 1 - ratio) or 1.0 for ratio in ratios})
    for index, text in enumerate(TEXTS):
        mine = [one for one in canvases if one.text == index]
        counts = np.bincount(np.concatenate([one.positions for one in mine]), minlength=len(text.prompt) + len(text.answer))
        assert counts[:2].tolist() == [0, 0]
        assert counts[2:].tolist() == [pairs] * len(text.answer)
        # Neighbours are a pair: what one masks the other shows.
        left = [set(one.positions.tolist()) for one in mine]
        while left:
            masked = left.pop(0)
            if len(masked) < len(text.answer):
                assert left.pop(0) == set(range(2, 2 + len(text.answer))) - masked
        for one in mine:
            whole = one.tokens.copy()
            whole[one.positions] = one.targets
            assert whole.tolist() == [*text.prompt, *text.answer]
            assert (one.tokens == 99).sum() == len(one.positions) > 0


def test_ratios_are_kept_and_come_with_their_complements():
    canvases = masked_canvases(TEXTS[-1:], 99, ratios=(0.25, 1.0))
    assert [(one.ratio, len(one.positions)) for one in canvases] == [(1.0, 40), (0.25, 10), (0.75, 30)]
    assert {one.ratio for one in masked_canvases(TEXTS, 99, ratios=(0.9,))} == {0.1, 0.9}


def test_masks_are_the_seeds_and_no_text_changes_anothers():
    def masks(texts, seed):
        return [one.positions.tolist() for one in masked_canvases(texts, 99, seed=seed)]

    few = masks(TEXTS[:4], 0)
    assert masks(TEXTS, 0)[: len(few)] == few
    assert masks(TEXTS, 1) != masks(TEXTS, 0)


def test_batches_are_of_one_length_and_lose_nothing():
    canvases = masked_canvases(TEXTS, 99, draws=4)
    cut = list(batches(canvases, most=100))
    assert [one for batch in cut for one in batch] == canvases
    for batch in cut:
        assert len({len(one.tokens) for one in batch}) == 1
        assert len(batch) == 1 or sum(len(one.tokens) for one in batch) <= 100
    assert max(map(len, cut)) > 1
