"""What one forward of the tree window holds: known tokens, a tree of guesses, masks; and which of them each sees."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..result import TILE

SPARE = 3
"""A forward has so many masks fewer than rows: the tokens that it commits must fit into the next one, with a mask."""


class Node(NamedTuple):
    """A guess.

    Attributes:
        position: where it is on the canvas.
        token: the guessed token.
        parent: the index of the guess before it on its path; -1 for none.
    """

    position: int
    token: int
    parent: int


@dataclass(frozen=True, eq=False)
class RowPlan:
    """What a forward holds of a canvas, in this order: known tokens, guesses, masks.

    Attributes:
        known: positions of committed tokens, ascending: those without final K/V, and those that predict a mask.
        nodes: the guesses; parents come before their children.
        masks: positions of masks.
        predictors: for each mask that is predicted, the index of the row that predicts it when no guess is right.
        candidates: those of them that may be committed: what is committed must fit into the next forward.
    """

    known: Sequence[int]
    nodes: Sequence[Node]
    masks: Sequence[int]
    predictors: dict[int, int]
    candidates: Sequence[int]

    @property
    def count(self) -> int:
        """The rows it takes."""
        return len(self.known) + len(self.nodes) + len(self.masks)

    @property
    def positions(self) -> list[int]:
        """The position of each row."""
        return [*self.known, *(node.position for node in self.nodes), *self.masks]


@dataclass(frozen=True, eq=False)
class Guesses:
    """The two most probable tokens of each position of a canvas, and their probabilities; `[L, 2]`, 0 where unknown."""

    tokens: NDArray[np.int32]
    probs: NDArray[np.float32]


def plan_row(
    stale: Sequence[int],
    open_masks: Sequence[int],
    guesses: Guesses,
    rows: int,
    end_ids: frozenset[int],
    *,
    first: bool,
) -> RowPlan:
    """Plan one forward of a canvas.

    A step with 12 rows, on a canvas with 6 known tokens (`k`), committed tokens (`c`) and masks (`_`). The guesses for
    position 9 are A and B, those for 10 are C and D:

        position   0         1
                   0123456789012345
        canvas     kkkkkkccc_______
        K/V final  #######
        known             ##           8 predicts 9
        guesses             AC         four paths: AC, AD, BC and BD
                             D
                            BC
                             D
        masks               ####       each predicts the position after it
        predicted           #####

    Args:
        stale: positions of committed tokens without final K/V, ascending.
        open_masks: positions of the masks to fill, ascending.
        guesses: for the tree.
        rows: the size of the forward.
        end_ids: no guess follows one of these.
        first: whether this is the first forward, which has no guesses, and whose known tokens cost no rows.
    """
    committed, nodes = set(stale), list[Node]()
    most = masks_at_first(len(stale), rows) if first else rows - SPARE
    free = most + SPARE - (0 if first else len(stale))
    if not first:
        _, _, needed = choose_masks(open_masks[: max(4, rows // 4)], committed, free)
        nodes = grow(open_masks, guesses, min(rows // 2, free - needed), end_ids)
    masks, again, _ = choose_masks(open_masks[:most], committed, free - len(nodes))
    known = sorted([*stale, *again])
    row_at = {position: row for row, position in enumerate(known)}
    row_at |= {position: len(known) + len(nodes) + index for index, position in enumerate(masks)}
    reached = [one for one in open_masks[: len(masks) + 1] if max(one - 1, 0) in row_at]
    predictors = {one: row_at[max(one - 1, 0)] for one in reached}
    return RowPlan(known, nodes, masks, predictors, reached[: rows - SPARE + 1])


def masks_at_first(known: int, rows: int) -> int:
    """The most masks in the first forward: what `rows` has room for, and with few rows also what fills the prompt's last tile.

    Args:
        known: tokens of the prompt.
    """
    least = rows - SPARE
    return max(least, min(least + -(known + least) % TILE, TILE - SPARE))


def choose_masks(open_masks: Sequence[int], forwarded: set[int], rows: int) -> tuple[list[int], list[int], int]:
    """The first masks that fit into `rows`, the committed tokens to forward again to predict them, and the rows they take.

    Args:
        forwarded: positions that are forwarded anyway.
    """
    masks: list[int] = []
    again: list[int] = []
    for position in open_masks:
        before = max(position - 1, 0)
        is_new = before != position and before not in forwarded and before not in masks[-1:]
        if len(masks) + len(again) + 1 + is_new > rows:
            break
        masks.append(position)
        again += [before] * is_new
    return masks, again, len(masks) + len(again)


def grow(open_masks: Sequence[int], guesses: Guesses, most: int, end_ids: frozenset[int]) -> list[Node]:
    """The tree of the `most` guesses that are most likely to be reached.

    That likelihood is the product of the probabilities on the path. The children of a guess are the two guesses for the
    next mask.
    """
    nodes: list[Node] = []
    order = count()  # of two paths as likely, the one found first
    queue: list[tuple[float, int, int, Node]] = []  # likelihood (negative), order, depth, guess

    def add_children(parent: int, depth: int, likelihood: float) -> None:
        if depth < len(open_masks):
            position = open_masks[depth]
            for token, prob in zip(guesses.tokens[position].tolist(), guesses.probs[position].tolist(), strict=True):
                if prob > 0:
                    heapq.heappush(queue, (-likelihood * prob, next(order), depth, Node(position, token, parent)))

    add_children(-1, 0, 1.0)
    while queue and len(nodes) < most:
        likelihood, _, depth, node = heapq.heappop(queue)
        nodes.append(node)
        if node.token not in end_ids:
            add_children(len(nodes) - 1, depth + 1, -likelihood)
    return nodes


def visible_rows(plan: RowPlan, width: int) -> NDArray[np.bool_]:
    """Which rows of a forward each row sees; bool `[width, width]`. Rows past the plan's only fill it up: they see themselves.

    All see the known tokens. Known tokens and masks see the masks; a guess sees the masks after it, and its ancestors.
    """
    known, nodes, used = len(plan.known), len(plan.nodes), plan.count
    seen = np.eye(width, dtype=np.bool_)
    seen[:used, :known] = True
    seen[:known, known + nodes : used] = True
    seen[known + nodes : used, known + nodes : used] = True
    masks = np.array(plan.masks)
    for row, node in enumerate(plan.nodes, known):
        seen[row, known + nodes : used] = masks > node.position
        if node.parent >= 0:
            seen[row, known : known + nodes] |= seen[known + node.parent, known : known + nodes]
    return seen
