"""The tree window: guesses for the next tokens, verified in the forward that also predicts the masks."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...errors import ConfigError
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, selected_first
from ..result import MOST_REJECTED
from .base import Forward, ForwardOutput, Part, StepResult, Window, WindowState, rows_of
from .cache import AppendedKVCache
from .tree_plan import Guesses, RowPlan, masks_at_first, plan_row, visible_rows


@dataclass(frozen=True)
class Tree(Window):
    """Forward one tile of rows: the newest tokens, a tree of guesses for the next ones, and the next masks.

    A guess is one of the two tokens that a mask's last forward found most probable. Guesses form a tree: a path from
    its root is a possible continuation of the text. Each sees only its ancestors, the committed text, and the masks
    after it, so that its row says which token follows on its path. After the forward, the longest path of guesses
    that were right is committed, with the token that follows it; their keys and values are final and stay in the
    cache. So each token is what one token a step from left to right gives, with the masks as this forward saw them, in a
    fraction of the forwards. The commit rule may commit other masks in the same step. `plan_row` shows a forward.

    Source: our own, after token trees of speculative decoding (SpecInfer, arXiv 2305.09781) and self-speculation for
    masked diffusion (arXiv 2510.00294). With a shift of 1 the row of a guess both is the token and predicts the next
    one. Without a shift the mask after each guess would have to be forwarded too, for about twice the rows; a family
    without a shift is refused.

    Attributes:
        rows: positions in a forward, for each canvas; the first forward has those of the prompt as well. The default, 32, is
            what costs least on every chip from M1 to M5 at 4, 8 and 16 bits, by forwards counted on the bundled model and
            times computed from MLX's kernels: 8 rows take 1.3 to 2.0 times as long, 64 rows 1.5 to 1.8 times, and 128
            rows 1.5 to 3.4 times (`python -m bench.studies.budgets`). `bench tune` measures it.
    """

    name = "tree"
    rows: int

    @property
    def guesses(self) -> bool:
        return True

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        first = masks_at_first(prompt, self.rows)
        return max(self.rows, prompt + min(first, masks)), min(max(self.rows, first + 1), prompt + masks)

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        self.check(model)
        return TreeState(model, canvas, self)

    def check(self, model: DiffusionModel) -> None:
        super().check(model)
        if model.shift != 1:
            raise ConfigError(f"window tree needs logits that are shifted by one; {model.family.name} has none", field="window")


class TreeState(WindowState):
    """`Tree` at work: the cache, the guesses for each position, and the plan of the last forward."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, window: Tree):
        self._model, self._canvas, self._window = model, canvas, window
        self._cache = AppendedKVCache(canvas.tokens.shape[1])
        shape = canvas.tokens.shape
        self._cached = np.zeros(shape, dtype=np.bool_)  # final K/V
        self._guesses = [Guesses(np.zeros((shape[1], 2), np.int32), np.zeros((shape[1], 2), np.float32)) for _ in range(shape[0])]
        self._plans: list[RowPlan] = []

    def forward(self, tokens: mx.array, on_host: NDArray[np.int32]) -> Forward:
        first = not self._plans
        self._plans = self._plan(on_host)
        width = max(plan.count for plan in self._plans) if first else self._window.rows
        positions, ids, seen = self._rectangle(on_host, width)
        kept = self._cached.copy()  # a token that is forwarded again has its new K/V
        for row, plan in zip(kept, self._plans, strict=True):
            row[plan.known] = False
        slots = self._cache.visible(kept)[:, None, :].repeat(width, axis=1)
        candidates, read = self._read()
        hidden = yield Part(
            from_numpy(ids),
            from_numpy(positions - self._canvas.padding[:, None]),
            from_numpy(np.concatenate([slots, seen], axis=-1))[:, None],
            self._cache,
            from_numpy(read[0]) if first else None,  # nobody reads the prompt's rows; later ones are read almost all
        )
        return self._output(hidden if first else rows_of(hidden, read), candidates, width)

    def _plan(self, on_host: NDArray[np.int32]) -> list[RowPlan]:
        canvas, first = self._canvas, not self._plans
        self._cached &= on_host != canvas.mask_id  # a mask after an end token may have predicted the start of a hole
        at = np.arange(on_host.shape[1])
        stale = (on_host != canvas.mask_id) & ~self._cached & (at >= canvas.padding[:, None])
        open_masks = canvas.open_masks(on_host)
        return [
            plan_row(
                at[new].tolist() if masks.any() else [],
                at[masks].tolist(),
                guesses,
                self._window.rows,
                int(pad),
                canvas.end_ids,
                first=first,
            )
            for new, masks, guesses, pad in zip(stale, open_masks, self._guesses, canvas.padding, strict=True)
        ]

    def _rectangle(
        self, on_host: NDArray[np.int32], width: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """Positions and ids, int32 `[B, width]`, and which rows each row sees, bool `[B, width, width]`."""
        canvas = self._canvas
        positions = np.repeat(canvas.padding[:, None], width, axis=1)
        ids = np.full_like(positions, canvas.pad_id)
        for row, plan in enumerate(self._plans):
            positions[row, : plan.count] = plan.positions
            ids[row, : plan.count] = on_host[row, plan.positions]
            ids[row, len(plan.known) : len(plan.known) + len(plan.nodes)] = [node.token for node in plan.nodes]
        return positions, ids, np.stack([visible_rows(plan, width) for plan in self._plans])

    def _read(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The candidates `[B, R]`, and the rows that predict them, then the rows of the guesses: `[B, R + G]`."""
        predicted = np.zeros(self._cached.shape, dtype=np.bool_)
        for row, plan in enumerate(self._plans):
            predicted[row, list(plan.predictors)] = True
        guesses = max(len(plan.nodes) for plan in self._plans)
        at = selected_first(predicted, self._window.rows - guesses)
        rows = np.zeros((len(at), at.shape[1] + guesses), dtype=np.int32)
        for index, plan in enumerate(self._plans):
            rows[index, : len(plan.predictors)] = [plan.predictors[one] for one in sorted(plan.predictors)]
            rows[index, at.shape[1] :][: len(plan.nodes)] = len(plan.known) + np.arange(len(plan.nodes))
        return at, rows

    def _output(self, hidden: mx.array, at: NDArray[np.int32], forwarded: int) -> ForwardOutput:
        masked, certain = np.zeros_like(at, dtype=np.bool_), np.zeros_like(at, dtype=np.bool_)
        span = np.zeros((len(at), 2), dtype=np.int32)
        for index, plan in enumerate(self._plans):
            masked[index, : len(plan.candidates)] = True  # they are the first of the predicted ones
            if plan.predictors:
                span[index] = min(plan.positions), max(plan.positions) + 1
                certain[index, 0] = True
        guesses = hidden.shape[1] - at.shape[1]
        return ForwardOutput(at, masked, hidden, forwarded, span, guesses=guesses, certain=certain)

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        """Commit the guesses that were right, and the token after them; keep their K/V."""
        tokens = np.array(result.tokens)
        chosen, scores, commit = result.chosen.copy(), result.scores.copy(), result.commit.copy()
        accepted: list[list[int]] = []
        rejected = []
        for row, plan in enumerate(self._plans):
            columns = {int(at): column for column, at in enumerate(output.positions[row]) if int(at) in plan.predictors}
            self._renew(row, columns, result)
            columns = {at: columns[at] for at in plan.candidates}
            path, verified = walk(plan, columns, result, row, self._canvas.end_ids)
            accepted.append(path)
            for position, (token, score) in verified.items():
                column = columns[position]
                chosen[row, column], scores[row, column], commit[row, column] = token, score, True
                tokens[row, position] = token
            rejected.append(rejected_guesses(plan, path, tokens[row]))
        self._keep(accepted, output.forwarded)
        return replace(result, chosen=chosen, scores=scores, commit=commit, tokens=from_numpy(tokens), rejected=rejected)

    def _renew(self, row: int, columns: dict[int, int], result: StepResult) -> None:
        """Guess anew, where a mask was forwarded. The rows of guesses are no help: they are rarely right past the path."""
        at, of = list(columns), list(columns.values())
        if result.best is not None and result.best_probs is not None:
            self._guesses[row].tokens[at] = result.best[row, of]
            self._guesses[row].probs[at] = result.best_probs[row, of]

    def _keep(self, accepted: list[list[int]], width: int) -> None:
        """Give a slot of the cache to each known token and each accepted guess of the last forward."""
        slots = np.full((len(accepted), width), -1, dtype=np.int32)
        for row, (plan, path) in enumerate(zip(self._plans, accepted, strict=True)):
            slots[row, : len(plan.known)] = plan.known
            for index in path:
                slots[row, len(plan.known) + index] = plan.nodes[index].position
            self._cached[row, slots[row][slots[row] >= 0]] = True
        self._cache.keep(slots)


def walk(
    plan: RowPlan, columns: dict[int, int], result: StepResult, row: int, end_ids: frozenset[int]
) -> tuple[list[int], dict[int, tuple[int, float]]]:
    """Follow the guesses that were right.

    Args:
        plan: of one canvas.
        columns: the column of each candidate in `result`, by its position, ascending.
        result: the step's outcome, without the guesses.
        row: of the canvas in the batch.
        end_ids: nothing is verified after one of these.

    Returns:
        The indices of the accepted guesses; and the verified token and its score at each position.
    """
    children = {(node.parent, node.position, node.token): index for index, node in enumerate(plan.nodes)}
    path: list[int] = []
    verified: dict[int, tuple[int, float]] = {}
    at = -1
    for position, column in columns.items():
        if at >= 0 and plan.nodes[at].position == position - 1:
            token, score = result.guessed[row, at], result.guessed_scores[row, at]
        elif not verified or result.commit[row, column]:
            # The first mask, or one after a committed token that the rule committed as well.
            token, score = result.chosen[row, column], result.scores[row, column]
        else:
            break
        verified[position] = int(token), float(score)
        at = children.get((at, position, int(token)), -2)
        if at < 0:
            break
        path.append(at)
        if int(token) in end_ids:
            break
    return path, verified


def rejected_guesses(plan: RowPlan, path: Collection[int], tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """The guesses of a forward that it did not confirm, as in `Step.rejected`; of several at a position the likeliest.

    Args:
        path: the indices of those that it confirmed.
        tokens: the canvas after the step, int32 `[L]`.
    """
    found: dict[int, int] = {}
    for index, node in enumerate(plan.nodes):  # the likeliest first
        if index not in path and tokens[node.position] != node.token:
            found.setdefault(node.position, node.token)
    return np.array(sorted(found.items())[:MOST_REJECTED], dtype=np.int32).reshape(-1, 2)
