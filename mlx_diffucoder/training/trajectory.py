"""The objective `trajectory`: the guesses that the tree needed, in the states in which it made them.

As `drafts`, but a block begins where a forward of the tree began when it wrote the answer, and has as many masks. What that
forward guessed is used from where it stopped: only that counts, each guess by the probability that those before it are right.

Source: our own form of d3LLM's pseudo-trajectories (its public code). There a state is the teacher's order of commits up to a
share of masks, here it is one that the tree was in.
"""

from collections.abc import Sequence
from itertools import pairwise

from ..decoding.result import TILE
from ..decoding.windows.tree_plan import SPARE
from .answers import OwnAnswer
from .drafts import Block, Drafts

LATER = TILE // 2 - 1
"""The masks of a forward with a full tree, and the one token that the forward before committed without a guess of it."""


class Trajectory(Drafts):
    """The objective for texts of one tokenizer."""

    blocks, masks = 4, TILE - SPARE

    def states(self, text: OwnAnswer) -> Sequence[Block]:
        found = [
            Block(before, LATER if before else self.masks, [after - before - 1])
            for before, after in pairwise([0, *text.known])
            if after < len(text.answer)
        ]
        return found or [Block(0, self.masks, [self.masks])]  # written in one forward: nothing was used
