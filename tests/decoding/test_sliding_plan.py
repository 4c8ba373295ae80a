"""The plan of a sliding window's forward: its drawing, and what must hold for any canvas and cache."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffucoder.decoding.canvas import Canvas, predictor_of
from mlx_diffucoder.decoding.windows.sliding import MULTIPLE, Layout, plan_forward

from . import oracle

MASK = 99
SPECIAL = {"mask_id": MASK, "pad_id": 0, "end_ids": frozenset({7})}


class State:
    """A canvas in some state of its decoding, and the plan for it."""

    def __init__(self, canvas, committed, cached, width, suffix, shift):
        to_fill = canvas.tokens == MASK
        self.canvas, self.width, self.suffix, self.shift = canvas, width, suffix, shift
        self.layout = Layout.of(canvas, shift)
        self.masked = to_fill & ~committed
        self.valid = cached & ~self.masked
        self.plan = plan_forward(self.masked, self.valid, self.layout, width, suffix)

        self.parts = [slice(*part) for part in self.layout.parts]


@st.composite
def states(draw):
    holes, token = draw(st.integers(1, 3)), st.sampled_from([1, 2, 3, 4, 5, 6, MASK])
    texts = [draw(st.lists(token, min_size=not index, max_size=12)) for index in range(holes + 1)]
    canvas = Canvas.around(texts, [draw(st.integers(1, 30)) for _ in range(holes)], **SPECIAL)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    flags = [random.random(len(canvas.tokens)) < draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1])) for _ in range(2)]
    return State(canvas, *flags, draw(st.integers(1, 20)), draw(st.integers(0, 9)), draw(st.sampled_from([0, 1])))


several = settings(max_examples=200, deadline=None)


def test_the_drawing_in_the_docstring_is_a_plan():
    lines = dict(lines_of(plan_forward.__doc__))
    text = lines["canvas"]
    known, committed = text.count("k"), np.array([one == "c" for one in text])
    canvas = Canvas.around([[1] * known, []], [len(text) - known], **SPECIAL)
    state = State(canvas, committed, flags(lines["cache_valid"], len(text)), 6, 2, 1)
    plan = state.plan
    found = zip(
        ("forwarded", "candidates", "attended", "then valid"),
        (plan.forwarded, plan.candidates, plan.attended, plan.cache_valid),
        strict=True,
    )
    for name, positions in found:
        assert positions.tolist() == flags(lines[name], len(text)).tolist(), name


def lines_of(drawing):
    """Each row of the drawing: its name, and what stands under the positions."""
    margin = next(line.index("0123") for line in drawing.splitlines() if "0123" in line)
    for line in drawing.splitlines():
        name = line[:margin].strip()
        if name in ("canvas", "cache_valid", "forwarded", "candidates", "attended", "then valid"):
            yield name, line[margin:]


def flags(line, length):
    return np.array([one == "#" for one in line.ljust(length)])


@several
@given(states())
def test_the_masks_within_the_width_are_the_candidates_and_what_predicts_them_is_forwarded(state):
    expected = []
    for part in state.parts:
        masks = np.flatnonzero(state.masked[part]) + part.start
        expected += [i for i in masks if i < masks[0] + state.width]
    assert np.flatnonzero(state.plan.candidates).tolist() == expected
    assert state.plan.forwarded[predictor_of(np.array(expected, dtype=int), state.shift)].all()
    assert state.plan.forwarded[expected].all()


@several
@given(states())
def test_only_what_is_forwarded_or_valid_is_attended_to_and_it_is_valid_afterwards_unless_it_is_a_mask(state):
    plan = state.plan
    assert (plan.attended == (plan.forwarded | state.valid)).all()
    assert (plan.cache_valid == (plan.attended & ~state.masked)).all()


@several
@given(states())
def test_everything_before_the_first_mask_of_a_hole_is_attended_to_and_valid_afterwards(state):
    for part in state.parts:
        masks = np.flatnonzero(state.masked[part]) + part.start
        if len(masks):
            assert state.plan.cache_valid[part.start : masks[0]].all()


@several
@given(states())
def test_what_is_valid_is_forwarded_only_in_a_window_or_to_predict(state):
    needed = np.roll(state.masked, -state.shift)
    forwarded, valid, layout = state.plan.forwarded, state.valid, state.layout
    assert not (forwarded & valid & layout.given & ~needed)[:-1].any()
    for part in state.parts:
        stale = np.flatnonzero(~valid[part] | state.masked[part] | needed[part])
        frozen = slice(part.start, part.start + stale[0] if len(stale) else part.stop)
        assert not forwarded[frozen][: -1 if frozen.stop == len(forwarded) else None].any()


@several
@given(states())
def test_the_positions_of_one_hole_are_a_multiple_where_the_canvas_is_long_enough(state):
    run = np.flatnonzero(state.plan.forwarded)
    low, high = run[0], run[-2] + 1 if len(run) > 1 else run[0]
    if len(state.parts) > 1 or not 0 < low <= high < len(state.masked) - 1:
        return
    given, valid = state.layout.given, state.valid
    # Known text is left out of the window where it need not be forwarded, and forwarded outside of it where it must be.
    if len(run) == high - low + 1 and not (given & valid)[high] and not (given & ~valid)[high - 1]:
        assert len(run) % MULTIPLE == 0


@several
@given(states())
def test_committing_one_candidate_a_step_fills_every_mask(state):
    masked, cached = state.masked.copy(), state.valid
    for _ in range(int(state.masked.sum())):
        plan = plan_forward(masked, cached, state.layout, state.width, state.suffix)
        cached = plan.cache_valid
        masked[plan.candidates.nonzero()[0][-1]] = False
    assert not masked.any()


@several
@given(states())
def test_a_canvas_is_planned_as_the_plain_oracle_plans_it(state):
    if not state.masked.any():
        return
    plain = oracle.Sliding(SimpleNamespace(shift=state.shift), state.canvas, state.width, state.suffix)
    masked, cached = (np.flatnonzero(one).tolist() for one in (state.masked, state.valid))
    plain.given, plain.masks_then = set(np.flatnonzero(state.canvas.tokens != MASK).tolist()), len(masked)
    plain.cached = dict.fromkeys(cached)
    assert plain.choose(len(state.masked), masked) == np.flatnonzero(state.plan.candidates).tolist()
    assert plain.live == np.flatnonzero(state.plan.forwarded).tolist()
