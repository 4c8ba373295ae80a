"""Slow plain commit rules and windows, written from their docstrings; the reference decoder runs them.

Rules are loops over Python numbers. A window takes the place of the network: keys and values are in a dictionary by
position and layer, and only those that are attended to are put together, in order, before each forward. No batches,
no masks over keys, nothing compiled, no position forwarded twice in one forward.
"""

import mlx.core as mx
import numpy as np

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.decoding.reference import reference_decode
from mlx_diffucoder.decoding.rules.schedule import commit_share
from mlx_diffucoder.forbidden import forbidden_ids


class Whole:
    """Every position, nothing cached."""

    def __init__(self, model, canvas):
        self.model, self.shift, self.mask_id = model, model.shift, canvas.mask_id
        self.start, self.holes = canvas.start, canvas.holes.tolist()
        self.cached = {}  # position -> layer -> (keys, values)

    def __call__(self, tokens, *, rows, positions, mask):
        """The logits `[1, L, V]` of the canvas `[1, L]`, zeros where nothing was forwarded."""
        canvas = tokens[0].tolist()
        masked = [i for i, token in enumerate(canvas) if token == self.mask_id]
        self.candidates = self.choose(len(canvas), masked)
        self.fresh = {}
        live = mx.array([self.live])
        logits = self.model(mx.take(tokens, live[0], axis=1), positions=live, kv=self)
        self.keep(masked)
        every = mx.zeros((1, len(canvas), logits.shape[-1]))
        every[:, live[0]] = logits
        return mx.take(every, rows[0], axis=1)

    def update(self, layer, keys, values):
        for index, position in enumerate(self.live):
            self.fresh.setdefault(position, {})[layer] = (keys[:, :, index], values[:, :, index])
        attended = sorted(self.cached.keys() | self.fresh.keys())
        both = [(self.fresh.get(position) or self.cached[position])[layer] for position in attended]
        return mx.stack([k for k, _ in both], axis=2), mx.stack([v for _, v in both], axis=2)

    def choose(self, length, masked):
        self.live = list(range(length))
        return masked

    def keep(self, masked):
        pass


class Sliding(Whole):
    def __init__(self, model, canvas, width, suffix=8, refresh=0):
        super().__init__(model, canvas)
        self.width, self.suffix, self.refresh = width, suffix, refresh
        self.masks_then = self.given = None

    def choose(self, length, masked):
        if self.masks_then is None:
            self.masks_then = len(masked)
            self.given = {i for i in range(length) if i not in masked}
        if self.refresh and self.masks_then - len(masked) >= self.refresh:
            self.masks_then, self.cached = len(masked), {}
        self.cached = {i: kept for i, kept in self.cached.items() if i not in masked}
        live, candidates = self.given - self.cached.keys(), []
        low = 0
        for high in [stop for _, stop in self.holes[:-1]] + [length]:
            mine = [i for i in masked if low <= i < high]
            stale = next((i for i in range(low, high) if i not in self.cached), high)
            start, end = stale, high
            if mine:
                start, end = min(start, mine[0] - self.shift), mine[0] + self.width + self.suffix
                while (end - start + 1) % 8:
                    end += 1
                candidates += [i for i in mine if i < mine[0] + self.width]
            live |= set(range(max(start, 0), min(end, high)))
            low = high
        predicts = {i - self.shift for i in masked}
        live -= (self.given & self.cached.keys()) - predicts
        self.live = sorted(live | {length - 1})
        return candidates

    def keep(self, masked):
        self.cached |= {i: self.fresh[i] for i in self.live if i not in masked}


class Blocks(Whole):
    def __init__(self, model, canvas, size, cache):
        super().__init__(model, canvas)
        self.size, self.cache, self.block = size, cache, None

    def choose(self, length, masked):
        block = (masked[0] - self.start) // self.size
        is_new, self.block = block != self.block, block
        start = self.start + block * self.size
        end = min(start + self.size, length)
        whole = is_new or self.cache == "none"
        self.live = list(range(length)) if whole else list(range(start, end if self.cache == "dual" else length))
        first_only = is_new and self.cache != "none" and start in masked and self.shift
        return [start] if first_only else [i for i in masked if i < end]

    def keep(self, masked):
        self.cached |= self.fresh  # valid or not


class Rule:
    """Commits the positions that pass the rule's own test, `passes`, and the best.

    `seen` has the confidence and the entropy of each candidate by its position.
    """

    steps = None

    def __init__(self, **parameters):
        self.__dict__.update(parameters)

    def open(self):
        return self

    def quota(self, index, masked, rng):
        return masked

    def commit(self, candidates, quota, key):
        shown = np.flatnonzero(np.array(candidates.masked[0])).tolist()
        if self.window:
            shown = [i for i in shown if i in self.window.candidates]
        confidence, entropy = candidates.confidence[0].tolist(), candidates.entropy[0].tolist()
        commit = self.choose({i: (confidence[i], entropy[i]) for i in shown}, int(quota[0]))
        return mx.array([[i in commit for i in range(candidates.length)]])

    def choose(self, seen, quota):
        best = min(seen, key=lambda i: (seen[i][1], i))
        return {best} | {i for i in seen if self.passes(i, seen)}


class Threshold(Rule):
    def passes(self, i, seen):
        return seen[i][0] >= self.tau


class Joint(Rule):
    def passes(self, i, seen):
        return np.prod([seen[one][0] for one in seen if one <= i]) >= self.tau


class EntropyBound(Rule):
    def passes(self, i, seen):
        order = sorted(seen, key=lambda i: (seen[i][1], i))
        return sum(seen[one][1] for one in order[: order.index(i)]) <= self.gamma


class Leftmost(Rule):
    def choose(self, seen, quota):
        return {min(seen)}


class Schedule(Rule):
    """`steps_planned` steps, eps 1e-3; a step that would commit nothing is skipped."""

    index = -1

    def quota(self, index, masked, rng):
        quota = 0
        while not quota:
            self.index += 1
            share = 1 if self.index >= self.steps_planned - 1 else commit_share(self.index, self.steps_planned, 1e-3)
            quota = int(np.float32(masked[0]) * share)
        return np.array([quota])

    def choose(self, seen, quota):
        return set(sorted(seen, key=lambda i: (seen[i][1], i))[:quota])


def decode(loaded, window, rule, canvas):
    """The canvas after each step, up to the step after which no text can change; greedily.

    Args:
        window: makes a window of the network and the canvas; None is the network itself, on the whole canvas.
        rule: a rule of this module, not yet used.
    """
    model, tokenizer = loaded
    rule.window = window and window(model, canvas)
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size)
    history = []
    for (step,) in reference_decode(rule.window or model, [canvas], rule, GenerationConfig(), forbidden=forbidden):
        history.append(step.tokens.tolist())
        left = set(np.flatnonzero(step.tokens == canvas.mask_id).tolist())
        for start, stop in canvas.holes.tolist():
            end = next((i for i in range(start, stop) if step.tokens[i] in canvas.end_ids), stop)
            left -= set(range(end, stop))
        if not left:
            break
    return history
