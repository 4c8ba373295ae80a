"""Denoise holes whose length the model itself changes (DreamOn).

In each step the best tokens are committed. Two of them are no text: a committed *delete* takes its position off the
canvas, and a committed *expand* becomes two masks. So a hole needs no length. Every step forwards the whole canvas:
what follows a hole moves with every change of its length, and cached keys are rotated to their old positions.

Source: DreamOn (arXiv 2602.01326) and its `diffusion_generate`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..config import EPS, GenerationConfig
from ..errors import ConfigError
from ..models.base import SizeIds
from ..models.transformer import DiffusionModel
from .batch import forward_together
from .canvas import Canvas
from .result import Step, after_step, resized
from .sampling import measure, random_sources
from .step import check_finite
from .torch_topk import torch_topk
from .windows.base import Part

Ids = NDArray[np.int32]
START = 4
"""Masks of a hole before its first step. DreamOn's results depend little on it: the model expands them."""


def resizing_decode(
    model: DiffusionModel, canvas: Canvas, ids: SizeIds, config: GenerationConfig, *, forbidden: mx.array | None = None
) -> Iterator[tuple[Step, ...]]:
    """Fill the holes of a batch of canvases, each with a text of any length up to `config.max_tokens`.

    Args:
        model: the network.
        canvas: B canvases. Every run of masks is a hole; those of a row are filled from left to right.
        ids: what changes a hole's length.
        config: how tokens are drawn and scored. A step commits `tokens_per_step`. A hole may grow by one `expand_budget`
            times; None is twice the tokens from its start to the canvas's end. With `pad_delete_to_right` a committed
            delete also deletes every mask to its right in the hole.
        forbidden: bool `[V]`, ids never to be chosen; expand and delete must be allowed.

    Yields:
        For each step one `Step` for each canvas, after the step's deletions and expansions. A row that is filled keeps
        its last step and is not forwarded again. A model may delete and expand for ever, so the forwards are
        limited as in the reference; then masks are left.

    Raises:
        ConfigError: `max_tokens` is below the length of a hole, or a field is for canvases of one length. The first
            step raises.
        CheckpointError: the network's output is not finite.
    """
    for name, usual in (("window", "whole"), ("rule", "schedule"), ("steps", None), ("eps", EPS)):
        if (value := getattr(config, name)) != usual:
            raise ConfigError(f"{name} {value} is not for {model.family.name}, whose canvas changes its length", field=name)
    if config.alg == "origin":
        raise ConfigError(f"alg origin is not for {model.family.name}, whose canvas changes its length", field="alg")
    filler = _Filler(model, canvas.mask_id, ids, config, forbidden)
    every = zip(canvas.each(), canvas.copies(), strict=True)
    rows = [_Row(filler, one.tokens[0], random_sources(config.seed, copy)[0]) for one, copy in every]
    waiting, sizes = [row for row in rows if row.masks()], tuple[int, ...]()
    if not waiting:
        yield tuple(row.step for row in rows)
    while waiting:
        texts = [row.step.tokens for row in waiting]
        sizes += (sum(len(text) if sizes else int((text == canvas.mask_id).sum()) for text in texts),)
        for row in rows:
            row.step = row.step.unchanged()
        for row, hidden in zip(waiting, forward_together(model, [Part(mx.array(text[None])) for text in texts]), strict=True):
            row.take(hidden, sizes)
        waiting = [row for row in waiting if row.masks()]
        yield tuple(row.step for row in rows)


def resizing_canvas(
    prompts: Sequence[Sequence[int]], most: int, sizes: SizeIds, *, mask_id: int, pad_id: int, end_ids: frozenset[int]
) -> Canvas:
    """Prompts as canvases. Each run of masks in a prompt is a hole.

    A prompt without masks gets `START` at its end, but no more than `most`, and then the token that a text ends with.
    """
    texts, lengths = [], []
    for prompt in prompts:
        runs = runs_of(np.array(prompt) == mask_id)
        edges = [0, *(edge for run in runs for edge in run), len(prompt)]
        parts = [list(prompt[edges[at] : edges[at + 1]]) for at in range(0, len(edges), 2)]
        texts.append(parts if runs else [*parts, [sizes.delete]])
        lengths.append([stop - start for start, stop in runs] or [min(START, most)])
    holes = max(map(len, lengths))  # rows with fewer get empty ones at their end
    texts = [parts + [list[int]()] * (holes + 1 - len(parts)) for parts in texts]
    lengths = [row + [0] * (holes - len(row)) for row in lengths]
    return Canvas.around(texts, lengths, mask_id=mask_id, pad_id=pad_id, end_ids=end_ids, sizes=sizes)


def runs_of(marked: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The start and end (exclusive) of each run of True in `marked` `[L]`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


@dataclass(frozen=True)
class _Hole:
    """A hole while it is filled.

    Attributes:
        start, stop: its positions on the canvas, as they are now.
        room: how many positions more it may have.
        budget: how many expansions are left.
        forwards: how many forwards are left.
    """

    start: int
    stop: int
    room: int
    budget: int
    forwards: int


class _Row:
    """One canvas while its holes are filled, one after the other. Its next forward is of `step.tokens`, int32 `[L]`."""

    def __init__(self, filler: "_Filler", tokens: Ids, key: mx.array):
        self._filler, self._key, self.step, self._positions = filler, key, Step.empty(tokens), 0
        self._left = len(runs_of(tokens == filler.mask_id))  # holes that were not opened yet
        self._hole = _Hole(0, 0, 0, 0, 0)

    def masks(self) -> list[int]:
        """The masks of the hole to fill, which is the next one if the last is filled or took too long; empty at the end."""
        tokens, hole = self.step.tokens, self._hole
        found = (hole.start + np.flatnonzero(tokens[hole.start : hole.stop] == self._filler.mask_id)).tolist()
        if found and hole.forwards:
            return found
        if not self._left:
            return []
        self._hole = self._filler.open(len(tokens), *runs_of(tokens == self._filler.mask_id)[-self._left])
        self._left -= 1
        return self.masks()

    def take(self, hidden: mx.array, rows: tuple[int, ...]) -> None:
        """Take a step with what the network computed of the canvas, `[1, L, D]`; `rows` as in `Step`."""
        tokens, masked = self.step.tokens, np.array(self.masks(), dtype=np.int32)
        choose_key, commit_key, self._key = mx.random.split(self._key, 3)
        chosen, scores = self._filler.choose(hidden, masked, self._hole, choose_key)
        best = self._filler.best(scores, commit_key)
        commits = {int(masked[one]): (int(chosen[one]), float(scores[one])) for one in best}
        step, self._hole = self._filler.step(tokens, masked, commits, self._hole)
        self._positions += len(tokens)
        self.step = replace(step, index=len(rows) - 1, nfe=len(rows), positions=self._positions, rows=rows)


@dataclass(frozen=True)
class _Filler:
    """What the canvases of a batch share; the attributes are as in `resizing_decode`."""

    model: DiffusionModel
    mask_id: int
    ids: SizeIds
    config: GenerationConfig
    forbidden: mx.array | None

    def open(self, length: int, start: int, stop: int) -> _Hole:
        """A hole before its first step."""
        room = self.config.max_tokens - (stop - start)
        if room < 0:
            raise ConfigError(
                f"max_tokens {self.config.max_tokens} is below the {stop - start} masks of the hole", field="max_tokens"
            )
        longest = length + room - start  # the reference counts the text after the hole too
        budget = 2 * longest if self.config.expand_budget is None else self.config.expand_budget
        return _Hole(start, stop, room, budget, 2 * longest + 2 * budget)

    def choose(self, hidden: mx.array, masked: Ids, hole: _Hole, key: mx.array) -> tuple[Ids, NDArray[np.float32]]:
        """A token and a score for each masked position `[M]`."""
        logits = self.model.logits(hidden, mx.array(np.maximum(masked - self.model.shift, 0))[None])
        if self.forbidden is not None:
            logits = mx.where(self.forbidden, -mx.inf, logits)
        if not (hole.room and hole.budget):
            logits = mx.where(mx.arange(logits.shape[-1]) == self.ids.expand, -mx.inf, logits)
        measured = measure(logits, self.config, key)
        check_finite(measured.confidence)
        return np.array(measured.chosen[0]).astype(np.int32), np.array(measured.scores[0])

    def best(self, scores: NDArray[np.float32], key: mx.array) -> NDArray[np.int64]:
        """Which of the scores `[M]` to commit: the best, or with `alg_temp` a draw from softmax(score / alg_temp)."""
        count = min(self.config.tokens_per_step, len(scores))
        if self.config.alg_temp > 0:
            # Gumbel top-n, as in `rules.schedule`.
            noise = mx.random.gumbel(shape=scores.shape, key=key)
            return np.argsort(-np.array(mx.array(scores) / self.config.alg_temp + noise), kind="stable")[:count]
        if self.config.reference:
            return np.array(torch_topk(scores.tolist(), count), dtype=np.int64)
        return np.argsort(-scores, kind="stable")[:count]

    def step(self, tokens: Ids, masked: Ids, commits: dict[int, tuple[int, float]], hole: _Hole) -> tuple[Step, _Hole]:
        """Commit, delete and expand.

        Args:
            tokens: the canvas before, int32 `[L]`.
            masked: the hole's masks before.
            commits: the token and the score of each position to commit.
        """
        deleted = np.array(sorted(at for at, (token, _) in commits.items() if token == self.ids.delete), dtype=np.int32)
        if self.config.pad_delete_to_right and len(deleted):
            deleted = masked[masked >= deleted[0]]
        gone = set(deleted.tolist())
        asked = sorted(at for at, (token, _) in commits.items() if token == self.ids.expand and at not in gone)
        # Several can be chosen at once. As in the reference the right ones come first; one without room stays a mask.
        count = min(len(asked), hole.budget, hole.room + len(deleted))
        expanded = np.array(asked[len(asked) - count :], dtype=np.int32)
        written = np.array(sorted(commits.keys() - gone - set(asked)), dtype=np.int32)

        after = tokens.copy()
        after[written] = [commits[at][0] for at in written.tolist()]
        step = replace(
            Step.empty(resized(after, deleted, expanded)),
            committed=after_step(written, deleted, expanded),
            scores=np.array([commits[at][1] for at in written.tolist()], dtype=np.float32),
            deleted=deleted,
            expanded=expanded,
            window=(0, len(tokens)),
        )
        grown = len(expanded) - len(deleted)
        left = (hole.room - grown, hole.budget - len(expanded), hole.forwards - 1)
        return step, _Hole(hole.start, hole.stop + grown, *left)
