"""A slow plain decoder of one canvas, rule by rule and window by window, as their docstrings have it.

No batches, no masks over keys, nothing compiled, no position forwarded twice in one forward: keys and
values stand in a dictionary by position and layer, and only what is visible is put together, in
order, before each forward. Rules are loops over Python numbers.
"""

import math

import mlx.core as mx
import numpy as np

from mlx_diffucoder.decoding.rules.schedule import commit_share


class Whole:
    """Every position, nothing kept."""

    def __init__(self, loaded, start):
        self.model, self.tokenizer = loaded
        self.start = start  # where the answer starts
        self.kept = {}  # position -> layer -> (keys, values)

    def update(self, layer, keys, values):
        for place, position in enumerate(self.live):
            self.fresh.setdefault(position, {})[layer] = (keys[:, :, place], values[:, :, place])
        visible = sorted(self.kept.keys() | self.fresh.keys())
        both = [(self.fresh.get(position) or self.kept[position])[layer] for position in visible]
        return mx.stack([k for k, _ in both], axis=2), mx.stack([v for _, v in both], axis=2)

    def look(self, canvas, again):
        """`{position: distribution}` of the candidates, and of those `again` that are shown."""
        masked = [i for i, token in enumerate(canvas) if token == self.tokenizer.mask_id]
        candidates = self.choose(canvas, masked, again)
        self.fresh = {}
        tokens = mx.array([[int(canvas[i]) for i in self.live]])
        logits = np.array(self.model(tokens, positions=mx.array([self.live]), kv=self)[0])
        self.keep(masked)
        shown = [i for i in again if i in self.live and max(i - 1, 0) in self.live]
        rows = {i: logits[self.live.index(max(i - 1, 0))] for i in [*candidates, *shown]}
        return {i: self.distribution(rows[i]) for i in candidates}, {i: self.distribution(rows[i]) for i in shown}

    def distribution(self, logits):
        known = set(self.tokenizer.known_ids.tolist()) - {self.tokenizer.mask_id}
        logits = np.array([one if i in known else -math.inf for i, one in enumerate(logits)], dtype=np.float32)
        probs = np.exp(logits - logits.max())
        return probs / probs.sum()

    def choose(self, canvas, masked, again):
        self.live = list(range(len(canvas)))
        return masked

    def keep(self, masked):
        pass


class Sliding(Whole):
    holes = None  # where each starts and stops; by default all that is behind the prompt is one

    def __init__(self, loaded, start, width, suffix=8, refresh=0):
        super().__init__(loaded, start)
        self.width, self.suffix, self.refresh = width, suffix, refresh
        self.masks_then = self.given = None

    def choose(self, canvas, masked, again):
        if self.masks_then is None:
            self.masks_then = len(masked)
            self.given = {i for i in range(len(canvas)) if i not in masked}
        if self.refresh and self.masks_then - len(masked) >= self.refresh:
            self.masks_then, self.kept = len(masked), {}
        self.kept = {i: kept for i, kept in self.kept.items() if i not in masked}
        live, candidates = self.given - self.kept.keys(), []
        low = 0
        for high in [stop for _, stop in (self.holes or [(0, 0)])[:-1]] + [len(canvas)]:
            mine = [i for i in masked if low <= i < high]
            stale = next((i for i in range(low, high) if i not in self.kept), high)
            start = stale - (stale in again)
            end = high
            if mine:
                start, end = min(start, mine[0] - 1), mine[0] + self.width + self.suffix
                while (end - start + 1) % 8:
                    end += 1
                candidates += [i for i in mine if i < mine[0] + self.width]
            live |= set(range(max(start, 0), min(end, high)))
            low = high
        predicts = {i - 1 for i in [*masked, *again]}
        live -= (self.given & self.kept.keys()) - predicts
        self.live = sorted(live | {len(canvas) - 1})
        return candidates

    def keep(self, masked):
        self.kept |= {i: self.fresh[i] for i in self.live if i not in masked}


class Blocks(Whole):
    def __init__(self, loaded, start, size, cache):
        super().__init__(loaded, start)
        self.size, self.cache, self.block = size, cache, None

    def choose(self, canvas, masked, again):
        block = (masked[0] - self.start) // self.size
        opens, self.block = block != self.block, block
        start = self.start + block * self.size
        end = min(start + self.size, len(canvas))
        whole = opens or self.cache == "none"
        self.live = list(range(len(canvas))) if whole else list(range(start, end if self.cache == "dual" else len(canvas)))
        first_only = opens and self.cache != "none" and start in masked
        return [start] if first_only else [i for i in masked if i < end]

    def keep(self, masked):
        self.kept |= self.fresh  # right or stale


def entropy_of(probs):
    return -float((probs * np.log(probs + np.float32(1e-10))).sum())


class Rule:
    """Which of `{position: distribution}` are committed; `passes` is the rule's own test."""

    def __init__(self, **parameters):
        self.__dict__.update(parameters)

    def quota(self, masks):
        return masks

    def commit(self, seen, quota):
        best = min(seen, key=lambda i: (entropy_of(seen[i]), i))
        return {best} | {i for i in seen if self.passes(i, seen)}

    def back(self, committed, again):
        return set()


class Threshold(Rule):
    def passes(self, i, seen):
        return seen[i].max() >= self.tau


class Factor(Rule):
    def passes(self, i, seen):
        for place, one in enumerate(sorted(seen, key=lambda i: (-seen[i].max(), i)), start=1):
            if seen[one].max() < 1 - self.f / (place + 1):
                return False
            if one == i:
                return True


class EntropyBound(Rule):
    def passes(self, i, seen):
        order = sorted(seen, key=lambda i: (entropy_of(seen[i]), i))
        return sum(entropy_of(seen[one]) for one in order[: order.index(i)]) <= self.gamma


class Local(Rule):
    def passes(self, i, seen):
        anchors = [one for one in seen if seen[one].max() >= self.tau]
        near = any(abs(i - one) <= self.radius for one in anchors)
        return i in anchors or (near and seen[i].max() >= self.relaxed)


class Prior(Rule):
    def passes(self, i, seen):
        return seen[i].max() * math.exp(-self.decay * (i - min(seen))) >= self.tau


class Stability(Rule):
    def commit(self, seen, quota):
        before, steady = getattr(self, "before", {}), getattr(self, "steady", {})
        self.steady = {}
        for i, now in seen.items():
            still = i in before and float((now * (np.log(now + 1e-10) - np.log(before[i] + 1e-10))).sum()) < self.epsilon
            self.steady[i] = steady[i] + 1 if still else 0
        self.before = seen
        return super().commit(seen, quota)

    def passes(self, i, seen):
        return seen[i].max() >= self.tau and self.steady[i] >= self.span


class Backtrack(Threshold):
    def __init__(self, **parameters):
        super().__init__(**parameters)
        self.then, self.taken = {}, {}

    def commit(self, seen, quota):
        commit = super().commit(seen, quota)
        self.then |= {i: seen[i].max() for i in commit}
        return commit

    def back(self, canvas, again):
        fallen = {
            i for i, now in again.items() if now[canvas[i]] < self.fall * self.then[i] and self.taken.get(i, 0) < self.limit
        }
        self.taken |= {i: self.taken.get(i, 0) + 1 for i in fallen}
        return fallen


class Schedule(Rule):
    """One step a token, eps 1e-3."""

    index = -1

    def quota(self, masks):
        self.index += 1
        return masks if self.index >= self.steps - 1 else int(np.float32(masks) * commit_share(self.index, self.steps, 1e-3))

    def commit(self, seen, quota):
        return set(sorted(seen, key=lambda i: (entropy_of(seen[i]), i))[:quota])


def decode(window, rule, prompt, max_tokens):
    """The canvas after each step, greedily."""
    return decode_canvas(
        window, rule, prompt + [window.tokenizer.mask_id] * max_tokens, [(len(prompt), len(prompt) + max_tokens)]
    )


def decode_canvas(window, rule, tokens, holes):
    """The same of any canvas: it is done when a mask is left only behind an end token in the same hole."""
    mask, ends = window.tokenizer.mask_id, window.tokenizer.end_ids
    canvas = np.array(tokens)
    window.holes = holes
    to_fill = set(np.flatnonzero(canvas == mask).tolist())
    history = []
    while mask in canvas:
        masks = set(np.flatnonzero(canvas == mask).tolist())
        if not (quota := rule.quota(len(masks))):
            continue
        seen, again = window.look(canvas, sorted(to_fill - masks) if isinstance(rule, Backtrack) else [])
        commit = rule.commit(seen, quota)
        back = rule.back(canvas, again)
        for i in commit:
            canvas[i] = seen[i].argmax()
        canvas[list(back)] = mask
        history.append(canvas.tolist())
        left = set(np.flatnonzero(canvas == mask).tolist())
        for start, stop in holes:
            end = next((i for i in range(start, stop) if canvas[i] in ends), stop)
            left -= set(range(end, stop))
        if not left:
            break
    return history
