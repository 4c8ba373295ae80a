"""A region of a text with its least probable word written anew, as work for the engine.

A masked-diffusion model sees both sides of every word, so it tells which one does not fit there, and writes another in its place.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from heapq import nsmallest

import numpy as np

from ..config import GenerationConfig
from ..infilling.task import Attempt, InfillTask
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .filling import SPARE, Filling
from .kept import KeptTexts
from .work import Lanes, Progress

DOUBT = -8.0
"""The log-probability in nats below which a word may be replaced."""
SURER = 0.3
"""Nats by which the mean log-probability of the region must rise. A sound word's replacement raised it by 0.12 at most."""
CONTEXT = 256
"""Tokens on each side of the region that are shown."""
TRIES = 3
"""Words that are tried, the least probable first."""
LONGEST = 8
"""Tokens of a hole in a word's place; its first word is taken."""
WORD = re.compile(r"\w+|[-+*/%<>=!&|^]+")
"""A name, a number, a keyword, or an operator."""


@dataclass
class Mending:
    """The region with the new word; an empty text where no word is improbable, or no other is more probable in its place.

    Attributes:
        before, after: the text around the region. One of them is not blank.
        region: has a word.
        cursor: a place in the region. The word that touches it is being typed, and stays; None for no cursor.
        config: how to decode.
    """

    before: str
    after: str
    region: str
    cursor: int | None
    config: GenerationConfig
    key: Hashable = None
    urgent: bool = True
    deadline: float | None = None
    progress: Progress = field(default_factory=Progress)

    def lanes(self, model: DiffusionModel, tokenizer: Tokenizer, pace: float, kept: KeptTexts) -> Lanes:
        """As `Work.lanes`."""
        config = replace(self.config, max_tokens=LONGEST, until=())
        task, text = InfillTask(model, tokenizer, [self.before, self.after], [None], config, None, CONTEXT, None), ""
        for value, start, end in nsmallest(TRIES, self._words(task)):
            filling = Filling(self.before + self.region[:start], self.region[end:] + self.after, config, CONTEXT, keeps=False)
            yield from filling.lanes(model, tokenizer, pace, kept)
            took, before = filling.progress, self.progress
            nfe, positions = before.nfe + took.nfe, before.positions + took.positions
            self.progress = replace(took, text="", settled="", reason=None, nfe=nfe, positions=positions)
            new = WORD.match(took.text.strip())
            mended = self.region[:start] + new[0] + self.region[end:] if new else self.region
            if value >= DOUBT:
                break
            if mended != self.region and self._is_better(task, mended):
                text = mended
                break
        self.progress = replace(self.progress, text=text, reason="stop")

    def _is_better(self, task: InfillTask, mended: str) -> bool:
        """Whether the model finds a region clearly more probable than this one."""
        lead, tail = task.context.leads[0], task.context.tails[0]
        ids = [task.tokenizer.encode_plain(lead + text + tail) for text in (self.region, mended)]
        (old_score,), (new_score,) = task.scores([Attempt([one], [False], 0) for one in ids])
        return new_score > old_score + SURER

    def _words(self, task: InfillTask) -> Iterator[tuple[float, int, int]]:
        """The log-probability of each word's least probable token, 0 where the word stays, with the word's start and end.

        A name that stands elsewhere too is no slip.
        """
        known = Counter(re.findall(r"\w+", self.before + self.region + self.after))
        lead, tail = task.context.leads[0], task.context.tails[0]
        ids = task.tokenizer.encode_plain(lead + self.region + tail)
        sees = "infill" not in task.model.family.cannot  # the others see one side only
        fits = len(ids) <= task.model.config.max_position_embeddings - 2 * CONTEXT - SPARE
        values = task.token_scores(ids) if sees and fits else np.zeros(len(ids), dtype=np.float32)
        ends = np.cumsum([len(task.tokenizer.piece(id)) for id in ids])  # bytes
        for word in WORD.finditer(self.region):
            stays = known[word[0]] > 1 or (self.cursor is not None and word.start() <= self.cursor <= word.end())
            start, end = (len((lead + self.region[:place]).encode()) for place in word.span())
            first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, end)
            yield 0.0 if stays else float(values[first : last + 1].min(initial=0.0)), *word.span()
