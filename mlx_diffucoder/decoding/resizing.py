"""Denoise holes whose length the model itself changes (DreamOn).

In each step the best tokens are committed. Two of them are no text: a committed *delete* takes its position off the
canvas, and a committed *expand* becomes two masks. So a hole needs no length. Every step forwards the whole canvas:
what follows a hole moves with every change of its length, and cached keys are rotated to their old positions.

Source: DreamOn (arXiv 2602.01326) and its `diffusion_generate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..config import EPS, GenerationConfig
from ..errors import ConfigError
from ..models.base import SizeIds
from ..models.transformer import DiffusionModel
from .canvas import Canvas, predictor_of
from .result import Step, after_step, resized
from .sampling import measure, random_sources
from .step import check_finite
from .torch_topk import torch_topk
from .windows.base import Forward, ForwardOutput, Part, rows_of

Ids = NDArray[np.int32]
START = 4
"""Masks of a hole before its first step. DreamOn's results depend little on it: the model expands them."""


def resizing_canvas(
    prompt: Sequence[int], most: int, sizes: SizeIds, *, mask_id: int, pad_id: int, end_ids: frozenset[int]
) -> Canvas:
    """A prompt as a canvas. Each run of masks in it is a hole.

    Without masks it gets `START` at its end, but no more than `most`, and then the token that a text ends with.
    """
    runs = runs_of(np.array(prompt) == mask_id)
    edges = [0, *(edge for run in runs for edge in run), len(prompt)]
    texts = [prompt[edges[at] : edges[at + 1]] for at in range(0, len(edges), 2)]
    if not runs:
        texts.append([sizes.delete])
    lengths = [stop - start for start, stop in runs] or [min(START, most)]
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


class ResizingRow:
    """One canvas of a `Batch` whose holes get texts of any length up to `config.max_tokens`, one after the other.

    A model may delete and expand for ever, so the forwards are limited as in the reference; then masks are left.

    Args:
        model: the network.
        canvas: one canvas. Every run of masks is a hole.
        ids: what changes a hole's length.
        config: how tokens are drawn and scored. A step commits `tokens_per_step`. A hole may grow by one `expand_budget`
            times; None is twice the tokens from its start to the canvas's end. With `pad_delete_to_right` a committed
            delete also deletes every mask to its right in the hole.
        forbidden: bool `[V]`, ids never to be chosen; expand and delete must be allowed.
        stop, copy: as in `Batch.add`.

    Raises:
        ConfigError: `max_tokens` is below the length of a hole, or a field is for canvases of one length.
    """

    def __init__(
        self,
        model: DiffusionModel,
        canvas: Canvas,
        ids: SizeIds,
        config: GenerationConfig,
        forbidden: mx.array | None,
        stop: Callable[[Step], bool] | None,
        copy: int,
    ):
        check_resizing(model, config)
        self._filler, self._stop = _Filler(model, canvas.mask_id, ids, config, forbidden), stop
        self.tokens, (self._key, _) = canvas.tokens, random_sources(config.seed, copy)
        holes = runs_of(self.tokens == canvas.mask_id)
        if (longest := max((stop - start for start, stop in holes), default=0)) > config.max_tokens:
            raise ConfigError(f"max_tokens {config.max_tokens} is below the {longest} masks of the hole", field="max_tokens")
        self._left, self._hole = len(holes), _Hole(0, 0, 0, 0, 0)  # holes that were not opened yet, and the one that is
        self._known, self._positions = int((self.tokens != canvas.mask_id).sum()), 0
        self.rows: tuple[int, ...] = ()
        self.output: ForwardOutput  # as in `Batch`
        self.forwarded = False
        self.step: Step | None = None
        self._at = self._next_masks()
        self.done = not self.masks

    @property
    def masks(self) -> int:
        """The masks that the next step may fill."""
        return len(self._at)

    def known_in(self, part: Part) -> int:
        """How many tokens of the known text a forward has; 0 after the first step."""
        return self._known if self.step is None else 0

    def forward(self) -> Forward:
        """The next forward: of the whole canvas."""
        length = len(self.tokens)
        hidden = yield Part(from_numpy(self.tokens[None]))
        predicting = rows_of(hidden, predictor_of(self._at, self._filler.model.shift))
        return ForwardOutput(self._at, np.ones(self.masks, dtype=np.bool_), predicting, length, (0, length))

    def take(self) -> None:
        """Take a step with the output of the last forward."""
        length, masked = len(self.tokens), self._at
        choose_key, commit_key, self._key = mx.random.split(self._key, 3)
        chosen, scores = self._filler.choose(self.output.hidden, self._hole, choose_key)
        best = self._filler.best(scores, commit_key)
        commits = {int(masked[one]): (int(chosen[one]), float(scores[one])) for one in best}
        step, self._hole = self._filler.step(self.tokens, masked, commits, self._hole)
        self.tokens, self._positions, self.forwarded = step.tokens, self._positions + length, False
        nfe, positions = len(self.rows), self._positions
        self.step = replace(step, index=nfe - 1, nfe=nfe, positions=positions, rows=self.rows)
        self._at = self._next_masks()
        self.done = not self.masks or (self._stop is not None and self._stop(self.step))

    def _next_masks(self) -> Ids:
        """The masks of the hole to fill, which is the next one if the last is filled or took too long; empty at the end."""
        tokens, hole, mask_id = self.tokens, self._hole, self._filler.mask_id
        found = hole.start + np.flatnonzero(tokens[hole.start : hole.stop] == mask_id).astype(np.int32)
        if len(found) and hole.forwards:
            return found
        if not self._left:
            return found[:0]
        self._hole = self._filler.open(len(tokens), *runs_of(tokens == mask_id)[-self._left])
        self._left -= 1
        return self._next_masks()


def check_resizing(model: DiffusionModel, config: GenerationConfig) -> None:
    """Raise `ConfigError` for a field that is for canvases of one length."""
    for name, usual in (("window", "whole"), ("rule", "schedule"), ("steps", None), ("eps", EPS)):
        if (value := getattr(config, name)) != usual:
            raise ConfigError(f"{name} {value} is not for {model.family.name}, whose canvas changes its length", field=name)
    if config.alg == "origin":
        raise ConfigError(f"alg origin is not for {model.family.name}, whose canvas changes its length", field="alg")


@dataclass(frozen=True)
class _Filler:
    """How holes are filled; the attributes are as in `ResizingRow`."""

    model: DiffusionModel
    mask_id: int
    ids: SizeIds
    config: GenerationConfig
    forbidden: mx.array | None

    def open(self, length: int, start: int, stop: int) -> _Hole:
        """A hole before its first step."""
        room = self.config.max_tokens - (stop - start)
        longest = length + room - start  # the reference counts the text after the hole too
        budget = 2 * longest if self.config.expand_budget is None else self.config.expand_budget
        return _Hole(start, stop, room, budget, 2 * longest + 2 * budget)

    def choose(self, hidden: mx.array, hole: _Hole, key: mx.array) -> tuple[Ids, NDArray[np.float32]]:
        """A token and a score for each masked position `[M]`, from what predicts them `[1, M, D]`."""
        logits = self.model.logits(hidden)
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
            return np.argsort(-np.array(from_numpy(scores) / self.config.alg_temp + noise), kind="stable")[:count]
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
