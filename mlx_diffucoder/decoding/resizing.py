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

from ..config import GenerationConfig
from ..errors import ConfigError
from ..models.base import SizeIds
from ..models.transformer import DiffusionModel
from .canvas import Canvas
from .result import Step
from .sampling import measure, random_sources
from .step import check_finite
from .torch_topk import torch_topk

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
    for name, usual in (("window", "whole"), ("rule", "schedule"), ("steps", None)):
        if (value := getattr(config, name)) != usual:
            raise ConfigError(f"{name} {value} is not for {model.family.name}, whose canvas changes its length", field=name)
    if config.alg == "origin":
        raise ConfigError(f"alg origin is not for {model.family.name}, whose canvas changes its length", field="alg")
    key, _ = random_sources(config.seed)
    filler = _Filler(model, canvas.mask_id, ids, config, forbidden)
    keys = mx.random.split(key, len(canvas.tokens))
    rows = [
        filler.steps(tokens[padding:], row_key)
        for tokens, padding, row_key in zip(canvas.tokens, canvas.padding, keys, strict=True)
    ]
    last: list[Step | None] = [None] * len(rows)
    while any(steps := [next(row, None) for row in rows]):
        last = [step or before for step, before in zip(steps, last, strict=True)]
        yield tuple(step for step in last if step)


def after_step(positions: NDArray[np.int32], step: Step) -> NDArray[np.int32]:
    """Where positions, or the edges of holes, of any shape are after a step that changed the canvas's length."""
    gone, new = ((positions[..., None] > one).sum(axis=-1, dtype=np.int32) for one in (step.deleted, step.expanded))
    return positions - gone + new


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
    """

    start: int
    stop: int
    room: int
    budget: int


@dataclass(frozen=True)
class _Filler:
    """Fills one canvas after another; the attributes are as in `resizing_decode`."""

    model: DiffusionModel
    mask_id: int
    ids: SizeIds
    config: GenerationConfig
    forbidden: mx.array | None

    def steps(self, tokens: Ids, key: mx.array) -> Iterator[Step]:
        """The steps of one canvas, int32 `[L]`."""
        nfe, positions, rows = 0, 0, tuple[int, ...]()
        holes = len(runs_of(tokens == self.mask_id))
        if not holes:
            yield Step.empty(tokens)
        for left in range(holes, 0, -1):
            start, stop = runs_of(tokens == self.mask_id)[-left]
            hole, limit = self._open(len(tokens), start, stop)
            for _ in range(limit):
                masked = np.arange(hole.start, hole.stop, dtype=np.int32)
                masked = masked[tokens[masked] == self.mask_id]
                if not len(masked):
                    break
                choose_key, commit_key, key = mx.random.split(key, 3)
                chosen, scores = self._choose(tokens, masked, hole, choose_key)
                best = self._best(scores, commit_key)
                nfe, positions = nfe + 1, positions + len(tokens)
                rows = (*rows, len(tokens) if rows else int((tokens == self.mask_id).sum()))  # as in `Step.rows`
                commits = {int(masked[one]): (int(chosen[one]), float(scores[one])) for one in best}
                step, hole = self._step(tokens, masked, commits, hole)
                tokens = step.tokens
                yield replace(step, index=nfe - 1, nfe=nfe, positions=positions, rows=rows)

    def _open(self, length: int, start: int, stop: int) -> tuple[_Hole, int]:
        """A hole before its first step, and the most forwards that it may take."""
        room = self.config.max_tokens - (stop - start)
        if room < 0:
            raise ConfigError(
                f"max_tokens {self.config.max_tokens} is below the {stop - start} masks of the hole", field="max_tokens"
            )
        longest = length + room - start  # the reference counts the text after the hole too
        budget = 2 * longest if self.config.expand_budget is None else self.config.expand_budget
        return _Hole(start, stop, room, budget), 2 * longest + 2 * budget

    def _choose(self, tokens: Ids, masked: Ids, hole: _Hole, key: mx.array) -> tuple[Ids, NDArray[np.float32]]:
        """A token and a score for each masked position `[M]`. One forward of the whole canvas."""
        predictors = mx.array(np.maximum(masked - self.model.shift, 0))[None]
        logits = self.model(mx.array(tokens)[None], rows=predictors)
        if self.forbidden is not None:
            logits = mx.where(self.forbidden, -mx.inf, logits)
        if not (hole.room and hole.budget):
            logits = mx.where(mx.arange(logits.shape[-1]) == self.ids.expand, -mx.inf, logits)
        measured = measure(logits, mx.array(tokens[masked])[None], self.config, key, needs_probs=False)
        check_finite(measured.confidence)
        return np.array(measured.chosen[0]).astype(np.int32), np.array(measured.scores[0])

    def _best(self, scores: NDArray[np.float32], key: mx.array) -> NDArray[np.int64]:
        """Which of the scores `[M]` to commit: the best, or with `alg_temp` a draw from softmax(score / alg_temp)."""
        count = min(self.config.tokens_per_step, len(scores))
        if self.config.alg_temp > 0:
            # Gumbel top-n, as in `rules.schedule`.
            noise = mx.random.gumbel(shape=scores.shape, key=key)
            return np.argsort(-np.array(mx.array(scores) / self.config.alg_temp + noise), kind="stable")[:count]
        if self.config.reference:
            return np.array(torch_topk(scores.tolist(), count), dtype=np.int64)
        return np.argsort(-scores, kind="stable")[:count]

    def _step(self, tokens: Ids, masked: Ids, commits: dict[int, tuple[int, float]], hole: _Hole) -> tuple[Step, _Hole]:
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
        copies = np.ones(len(tokens), dtype=np.int32)
        copies[deleted], copies[expanded] = 0, 2
        step = replace(
            Step.empty(np.repeat(after, copies)),
            committed=(np.cumsum(copies, dtype=np.int32) - copies)[written],
            scores=np.array([commits[at][1] for at in written.tolist()], dtype=np.float32),
            deleted=deleted,
            expanded=expanded,
            window=(0, len(tokens)),
        )
        grown = len(expanded) - len(deleted)
        return step, _Hole(hole.start, hole.stop + grown, hole.room - grown, hole.budget - len(expanded))
