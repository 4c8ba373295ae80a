"""Canvases that are denoised together: they join and leave between steps, and each becomes what it would alone.

A canvas has its own window, commit rule, configuration and random numbers, and shares with the others nothing but the
forwards: in each, their tokens stand one after the other, and none sees another canvas. So a canvas costs the same
positions alone and in any batch, and one that is finished costs nothing.
"""

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate

import mlx.core as mx
import numpy as np

from ..config import GenerationConfig
from ..models.kv import PackedTexts
from ..models.transformer import DiffusionModel
from .canvas import Canvas
from .resizing import ResizingRow
from .result import Step
from .rules.base import CommitRule, RuleState
from .sampling import random_sources
from .step import StepInput, take_steps
from .windows.base import Forward, ForwardOutput, Part, StepResult, Window


class Batch:
    """Canvases that are denoised together.

        batch = Batch(model)
        first = batch.add(canvas, rule, window, config)
        while batch:
            for id, step in batch.step().items():
                ...  # `id in batch` is False after a canvas's last step

    Args:
        model: the network.
    """

    def __init__(self, model: DiffusionModel):
        self._model, self._rows, self._added = model, dict[int, _Row | ResizingRow](), 0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id: int) -> bool:
        return id in self._rows

    def add(
        self,
        canvas: Canvas,
        rule: CommitRule,
        window: Window,
        config: GenerationConfig,
        *,
        forbidden: mx.array | None = None,
        stop: Callable[[Step], bool] | None = None,
        copy: int = 0,
    ) -> int:
        """Let a canvas join at the next step.

        Args:
            canvas: every mask on it is filled, wherever it is. Where its holes change their
                length, the rule and the window must be `schedule` and `whole`.
            rule: decides which tokens are committed in a step.
            window: decides which positions are forwarded in a step.
            config: how tokens are drawn and scored.
            forbidden: bool `[V]`, ids never to be chosen.
            stop: whether the canvas is finished after this step, although it has masks that belong to a text.
            copy: as in `sampling.random_sources`.

        Returns:
            The canvas's id in `step`.

        Raises:
            ConfigError: the window or the configuration cannot decode with this model.
        """
        self._added += 1
        if canvas.sizes:
            row: _Row | ResizingRow = ResizingRow(self._model, canvas, canvas.sizes, config, forbidden, stop, copy)
        else:
            row = _Row(self._model, canvas, rule, window, config, forbidden, stop, copy)
        self._rows[self._added] = row
        return self._added

    def cancel(self, id: int) -> None:
        """Let a canvas leave at once, and free its memory; nothing happens if it has left already."""
        self._rows.pop(id, None)

    def step(self, ids: Collection[int] | None = None) -> dict[int, Step]:
        """Take one step on each canvas, or on those of `ids`; the others wait, and stay as they are.

        When it returns, their next forward is already running.

        Returns:
            The step of each of these canvases by its id. The last step of a canvas is the one after which no mask
            is left; or, for a window that `stops_at_end`, its text cannot change any more: it then has padding after its end
            tokens.

        Raises:
            CheckpointError: the network's output is not finite.
        """
        taken = {id: row for id, row in self._rows.items() if ids is None or id in ids}
        steps = {id: Step.empty(row.tokens) for id, row in taken.items() if not row.masks}
        rows = [row for row in taken.values() if row.masks]
        self._forward([row for row in rows if not row.forwarded])
        same = [row for row in rows if isinstance(row, _Row)]
        for one, (result, state) in zip(same, take_steps(self._model, [one.step_input() for one in same]), strict=True):
            one.take(result, state)
        for row in rows:
            if isinstance(row, ResizingRow):
                row.take()
        steps |= {id: row.step for id, row in taken.items() if row.step is not None}
        self._rows = {id: row for id, row in self._rows.items() if not row.done}
        left = [row for row in taken.values() if not row.done]
        self._forward(left)
        mx.async_eval([row.output.hidden for row in left])
        return steps

    def _forward(self, rows: Sequence["_Row | ResizingRow"]) -> None:
        """Carry out the next forward of some canvases, all of them in one call of the network."""
        waiting: list[tuple[_Row | ResizingRow, Forward, mx.array | None]] = [(row, row.forward(), None) for row in rows]
        while waiting:
            asked: list[tuple[_Row | ResizingRow, Forward, Part]] = []
            for row, forward, hidden in waiting:
                try:
                    asked.append((row, forward, next(forward) if hidden is None else forward.send(hidden)))
                except StopIteration as returned:
                    row.output, row.forwarded = returned.value, True
            if not asked:
                return
            size = sum(part.tokens.size - row.known_in(part) for row, _, part in asked)
            for row in rows:
                row.rows += (size,)
            found = forward_together(self._model, [part for _, _, part in asked])
            waiting = [(row, forward, hidden) for (row, forward, _), hidden in zip(asked, found, strict=True)]


class _Row:
    """One canvas of a batch, and all that belongs to it alone."""

    def __init__(
        self,
        model: DiffusionModel,
        canvas: Canvas,
        rule: CommitRule,
        window: Window,
        config: GenerationConfig,
        forbidden: mx.array | None,
        stop: Callable[[Step], bool] | None,
        copy: int,
    ):
        self._canvas, self._window, self._config = canvas, window, config
        self._forbidden, self._stop = forbidden, stop
        self._window_state, self._rule_state = window.open(model, canvas), rule.open()
        self._key, self._rng = random_sources(config.seed, copy)
        self.tokens = canvas.tokens
        self.masks = int((self.tokens == canvas.mask_id).sum())
        self._known = len(self.tokens) - self.masks
        self._index, self._positions = -1, 0
        self.rows: tuple[int, ...] = ()
        self.output: ForwardOutput  # of the forward that the next step is made of; once that has begun, `forwarded` is True
        self.forwarded = False
        self.step: Step | None = None
        self.done = not self.masks

    def forward(self) -> Forward:
        return self._window_state.forward(self.tokens)

    def known_in(self, part: Part) -> int:
        """How many tokens of the known text a forward has; 0 after the first step."""
        known = min(self._known, part.tokens.size) if self.step is None else 0
        self._known -= known
        return known

    def step_input(self) -> StepInput:
        """What the step needs after its forward. A step of the schedule without commits is skipped: it costs no forward."""
        masks = np.array([self.masks])
        self._index += 1
        while not (quota := self._rule_state.quota(self._index, masks, self._rng)).any():
            self._index += 1
        self._key, key = mx.random.split(self._key)
        return StepInput(
            self.output,
            self.tokens,
            self._rule_state,
            quota,
            key,
            self._config,
            self._forbidden,
            self._window.guesses,
        )

    def take(self, result: StepResult, state: RuleState) -> None:
        """Put the outcome of a step onto the canvas."""
        output, canvas = self.output, self._canvas
        result, self._rule_state = self._window_state.observe(output, result), state
        self.tokens, self.forwarded = result.tokens, False
        self.masks = int((self.tokens == canvas.mask_id).sum())
        self._positions += output.forwarded
        self.done = not self.masks or result.done or (self._window.stops_at_end and canvas.finished(self.tokens))
        tokens = canvas.padded_out(self.tokens) if self.done and not self._config.reference else self.tokens
        rejected = result.rejected
        self.step = Step(
            index=self._index,
            tokens=tokens,
            committed=output.positions[result.commit],
            scores=result.scores[result.commit],
            nfe=len(self.rows),
            positions=self._positions,
            window=output.span,
            rows=self.rows,
            rejected=rejected[tokens[rejected[:, 0]] != rejected[:, 1]],  # a guess may be the padding
        )
        self.done |= self._stop is not None and self._stop(self.step)


def forward_together(model: DiffusionModel, parts: Sequence[Part]) -> list[mx.array]:
    """The hidden states of each part, `[K, L, D]` or those of its `rows`, from one call of the network."""
    if len(parts) == 1:
        return [model.model(*parts[0])]
    tokens = mx.concatenate([part.tokens.reshape(1, -1) for part in parts], axis=1)
    positions = mx.concatenate([_positions(part).reshape(1, -1) for part in parts], axis=1)
    each = [part for part in parts for _ in range(part.tokens.shape[0])]
    texts = PackedTexts([part.tokens.shape[1] for part in each], [part.mask for part in each], [part.kv for part in each])
    hidden = model.model(tokens, positions, None, texts)  # [1, sum of K * L, D]
    ends = list(accumulate(part.tokens.size for part in parts))[:-1]
    every = [one.reshape(*part.tokens.shape, -1) for one, part in zip(mx.split(hidden, ends, axis=1), parts, strict=True)]
    return [one if part.rows is None else one[:, part.rows] for one, part in zip(every, parts, strict=True)]


def _positions(part: Part) -> mx.array:
    """The position of each token, int32 `[K, L]`."""
    if isinstance(part.positions, mx.array):
        return part.positions
    return mx.broadcast_to(part.positions + mx.arange(part.tokens.shape[1]), part.tokens.shape)
