"""Which positions are forwarded, and which keys and values are kept between forwards.

A window is a small frozen value: it can be printed, compared and kept in a log. Opened on a canvas
it becomes a sight, which holds what one generation keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from .canvas import Canvas
from .config import WINDOWS, GenerationConfig, parse_choice
from .kept_sights import BlockSight, SlidingSight
from .model import Dream
from .sights import DraftSight, Sight, WholeSight


class Window(Protocol):
    """What the loop needs to know of a window."""

    @property
    def stops(self) -> bool:
        """Whether decoding ends with the text, or with the canvas."""
        ...

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        """Positions forwarded at once, and candidates among them, at most, of a prompt and masks of these lengths."""
        ...

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        """Start on a canvas, with nothing kept."""
        ...


class _Stops:
    @property
    def stops(self) -> bool:
        return True


@dataclass(frozen=True)
class Whole(_Stops):
    """Forward the whole canvas, keep nothing: the reference."""

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, masks

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return WholeSight(model, canvas)


@dataclass(frozen=True)
class Sliding(_Stops):
    """Forward from the first position that is not settled to some masks ahead; freeze what is behind.

    A position is settled when it was forwarded after its token was committed: only then do its
    keys and values belong to that token (dKV-Cache, arXiv 2505.15781). The shift makes position
    i - 1 predict position i, so it is forwarded again as long as i is masked. Of the masks behind
    the window the next few and the last one are shown to the model (Streaming-dLLM, 2601.17917;
    DPad, 2508.14148), the others are not forwarded at all. So that forwards have few shapes, each is
    compiled once on a GPU, positions come in multiples of 8: the suffix takes what is left.

    Where there are several holes, each has such a window, and all slide at once. The text given around
    them is forwarded in the first look, also that behind a hole, and seen from then on.

    Attributes:
        width: positions from the first mask on whose masks may be committed.
        suffix: positions behind them that are only shown, at least.
        refresh: commits after which everything settled is encoded anew; 0 is never.
    """

    width: int
    suffix: int
    refresh: int

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        reach = self.width + self.suffix + SlidingSight.ROUND
        return (prompt + masks if self.refresh else min(prompt + masks, prompt + reach)), min(self.width, masks)

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return SlidingSight(model, canvas, self.width, self.suffix, self.refresh)


@dataclass(frozen=True)
class Blocks:
    """Fast-dLLM's blocks, from left to right, with its caches (arXiv 2505.22618).

    Each block opens with a forward of the whole canvas, in which its first token is committed: the
    shift leaves that position without a logit in what follows. Then only the block is forwarded
    (`dual`), or the block and all behind it (`prefix`), while every other position keeps the keys
    and values of the block's first forward, whether its token has been committed since or not.
    Without a cache each forward is of the whole canvas. Here so that published numbers can be
    reproduced; `Sliding` costs less and loses less.

    Attributes:
        size: positions in a block.
        stop: 0 goes on to the end of the canvas, as published; 1 stops with the text.
        cache: `none`, `prefix` or `dual`.
    """

    size: int
    stop: int
    cache: str

    @property
    def stops(self) -> bool:
        return bool(self.stop)

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, max(prompt, self.size)  # masks in the prompt make one block

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return BlockSight(model, canvas, self.size, self.cache)


@dataclass(frozen=True)
class Drafts(_Stops):
    """The whole canvas, and in the same forward the canvases that will probably come next.

    After a commit, sets of the guesses that are left are filled in as they looked before, those
    sets that are the likeliest to be committed next; all of these canvases are forwarded in one
    batch. As long as the rule then makes a canvas that was among them, its logits are there
    already. What is seen is always what the whole canvas gives: the text is that of `Whole`, in
    fewer and larger forwards. FreeDave (arXiv 2510.00294) drafts one order of commits; sets, in
    which orders meet again, are reached more often.

    Attributes:
        ahead: canvases in a batch.
    """

    ahead: int

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return self.ahead * (prompt + masks), masks

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return DraftSight(model, canvas, self.ahead)


def window_for(config: GenerationConfig) -> Window:
    """The window that a configuration names."""
    name, parameters = parse_choice(config.window, WINDOWS, "window")
    kinds: dict[str, Callable[..., Window]] = {
        "whole": Whole,
        "blocks": partial(Blocks, cache="none"),
        "blocks-prefix": partial(Blocks, cache="prefix"),
        "blocks-dual": partial(Blocks, cache="dual"),
        "drafts": Drafts,
        "sliding": Sliding,
    }
    return kinds[name](**parameters)
