"""The tree window: guesses for the next tokens, verified in the forward that also predicts the masks."""

from collections.abc import Collection
from dataclasses import dataclass, replace

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
        return TreeState(canvas, self.rows)

    def check(self, model: DiffusionModel) -> None:
        super().check(model)
        if model.shift != 1:
            raise ConfigError(f"window tree needs logits that are shifted by one; {model.family.name} has none", field="window")


class TreeState(WindowState):
    """`Tree` at work: the cache, the guesses for each position, and the plan of the last forward."""

    def __init__(self, canvas: Canvas, rows: int):
        self._canvas, self._rows, length = canvas, rows, len(canvas.tokens)
        self._cache = AppendedKVCache(length)
        self._cached = np.zeros(length, dtype=np.bool_)  # final K/V
        self._guesses = Guesses(np.zeros((length, 2), np.int32), np.zeros((length, 2), np.float32))
        self._plan: RowPlan | None = None

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        first = self._plan is None
        plan = self._plan = self._planned(tokens, first=first)
        width = plan.count if first else self._rows
        kept = self._cached.copy()
        kept[plan.known] = False  # a token that is forwarded again has its new K/V
        slots = self._cache.visible(kept)
        seen = np.concatenate([np.broadcast_to(slots, (width, len(slots))), visible_rows(plan, width)], axis=1)
        positions, ids = self._filled(plan, tokens, width)
        candidates, read = self._read(plan)
        hidden = yield Part(
            from_numpy(ids[None]),
            from_numpy(positions[None]),
            from_numpy(seen)[None, None],
            self._cache,
            from_numpy(read) if first else None,  # nobody reads the prompt's rows; later ones are read almost all
        )
        hidden = hidden if first else rows_of(hidden, read)
        at = np.arange(len(candidates))
        masked = at < len(plan.candidates)  # they are the first of the predicted ones
        span = (min(plan.positions), max(plan.positions) + 1) if plan.predictors else (0, 0)
        certain = (at == 0) & bool(plan.predictors)
        return ForwardOutput(candidates, masked, hidden, width, span, guesses=len(plan.nodes), certain=certain)

    def _planned(self, tokens: NDArray[np.int32], *, first: bool) -> RowPlan:
        canvas = self._canvas
        self._cached &= tokens != canvas.mask_id  # a mask after an end token may have predicted the start of a hole
        stale = np.flatnonzero((tokens != canvas.mask_id) & ~self._cached).tolist()
        masks = np.flatnonzero(canvas.open_masks(tokens)).tolist()
        return plan_row(stale if masks else [], masks, self._guesses, self._rows, canvas.end_ids, first=first)

    def _filled(self, plan: RowPlan, tokens: NDArray[np.int32], width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Positions and ids of a forward, int32 `[width]`; rows past the plan's hold padding."""
        positions, ids = np.zeros(width, dtype=np.int32), np.full(width, self._canvas.pad_id, dtype=np.int32)
        positions[: plan.count] = plan.positions
        ids[: plan.count] = tokens[plan.positions]
        ids[len(plan.known) :][: len(plan.nodes)] = [node.token for node in plan.nodes]
        return positions, ids

    def _read(self, plan: RowPlan) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The candidates `[R]`, and the rows that predict them, then the rows of the guesses: `[R + G]`."""
        predicted, guesses = np.zeros_like(self._cached), len(plan.nodes)
        predicted[list(plan.predictors)] = True
        at = selected_first(predicted, self._rows - guesses)
        rows = np.zeros(len(at) + guesses, dtype=np.int32)
        rows[: len(plan.predictors)] = [plan.predictors[one] for one in sorted(plan.predictors)]
        rows[len(at) :] = len(plan.known) + np.arange(guesses)
        return at, rows

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        """Commit the guesses that were right, and the token after them; keep their K/V."""
        plan = self._plan
        if plan is None:
            raise ValueError("nothing was forwarded")
        columns = {int(at): column for column, at in enumerate(output.positions) if int(at) in plan.predictors}
        self._renew(columns, result)
        columns = {at: columns[at] for at in plan.candidates}
        path, verified = walk(plan, columns, result, self._canvas.end_ids)
        chosen, scores, commit = result.chosen.copy(), result.scores.copy(), result.commit.copy()
        tokens = result.tokens.copy()
        for position, (token, score) in verified.items():
            column = columns[position]
            chosen[column], scores[column], commit[column], tokens[position] = token, score, True, token
        self._keep(plan, path, output.forwarded)
        rejected = rejected_guesses(plan, path, tokens)
        return replace(result, chosen=chosen, scores=scores, commit=commit, tokens=tokens, rejected=rejected)

    def _renew(self, columns: dict[int, int], result: StepResult) -> None:
        """Guess anew, where a mask was forwarded. The rows of guesses are no help: they are rarely right past the path."""
        at, of = list(columns), list(columns.values())
        if result.best is not None and result.best_probs is not None:
            self._guesses.tokens[at], self._guesses.probs[at] = result.best[of], result.best_probs[of]

    def _keep(self, plan: RowPlan, path: list[int], width: int) -> None:
        """Give a slot of the cache to each known token and each accepted guess of the last forward."""
        slots = np.full(width, -1, dtype=np.int32)
        slots[: len(plan.known)] = plan.known
        for index in path:
            slots[len(plan.known) + index] = plan.nodes[index].position
        self._cached[slots[slots >= 0]] = True
        self._cache.keep(slots)


def walk(
    plan: RowPlan, columns: dict[int, int], result: StepResult, end_ids: frozenset[int]
) -> tuple[list[int], dict[int, tuple[int, float]]]:
    """Follow the guesses that were right.

    Args:
        plan: of the forward.
        columns: the column of each candidate in `result`, by its position, ascending.
        result: the step's outcome, without the guesses.
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
            token, score = result.guessed[at], result.guessed_scores[at]
        elif not verified or result.commit[column]:
            # The first mask, or one after a committed token that the rule committed as well.
            token, score = result.chosen[column], result.scores[column]
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
