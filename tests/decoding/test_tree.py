"""The tree window: its plan, and every step of it against a plain oracle that has no branches."""

from collections import Counter

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map_with_path

from mlx_diffucoder import GenerationConfig, stream_batch, stream_generate
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.decoding.windows.base import StepResult
from mlx_diffucoder.decoding.windows.tree import rejected_guesses, walk
from mlx_diffucoder.decoding.windows.tree_plan import Guesses, Node, RowPlan, masks_at_first, plan_row, visible_rows
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import canvas_of

END = frozenset({99})
PROMPTS = [[3, 5, 7, 11, 13, 17, 19], [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22], [1]]


def guesses_of(length, pairs):
    """`pairs`: for a position the two guesses, each a token and a probability."""
    found = Guesses(np.zeros((length, 2), np.int32), np.zeros((length, 2), np.float32))
    for position, two in pairs.items():
        found.tokens[position], found.probs[position] = zip(*two, strict=True)
    return found


def test_the_drawing_in_the_docstring_is_a_plan():
    A, B, C, D = range(4)
    guesses = guesses_of(16, {9: [(A, 0.5), (B, 0.3)], 10: [(C, 0.8), (D, 0.1)]})
    plan = plan_row([7, 8], list(range(9, 16)), guesses, 12, END, first=False)
    assert plan.known == [7, 8]
    paths = [Node(9, A, -1), Node(10, C, 0), Node(9, B, -1), Node(10, C, 2), Node(10, D, 0), Node(10, D, 2)]
    assert plan.nodes == paths
    assert plan.masks == [9, 10, 11, 12]
    assert plan.predictors == {9: 1, 10: 8, 11: 9, 12: 10, 13: 11}  # rows: 2 known, 6 guesses, 4 masks
    assert plan.candidates == [9, 10, 11, 12, 13]
    assert plan.count == 12


@st.composite
def states(draw):
    """A canvas at any moment: what is committed, what of it is cached, and guesses for some masks."""
    length = draw(st.integers(4, 40))
    rows = draw(st.sampled_from([8, 9, 16, 32]))
    masked = np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    masked[0] = False
    most = rows - 2
    committed = [at for at in range(length) if not masked[at]]
    stale = sorted(draw(st.lists(st.sampled_from(committed), unique=True, max_size=most)))
    probs = draw(st.lists(st.sampled_from([0.0, 0.1, 0.45, 0.5, 1.0]), min_size=length, max_size=length))
    tokens = draw(st.lists(st.integers(95, 101), min_size=length, max_size=length))
    pairs = {at: [(tokens[at], probs[at]), (tokens[at] + 7, (1 - probs[at]) / 2)] for at in range(length) if probs[at]}
    return stale, np.flatnonzero(masked).tolist(), guesses_of(length, pairs), rows


@given(states(), st.booleans())
@settings(max_examples=200)
def test_a_plan_fits_its_rows_predicts_the_first_mask_and_can_be_followed_by_another(state, first):
    stale, masks, guesses, rows = state
    plan = plan_row(stale, masks, guesses, rows, END, first=first)
    assert plan.count - first * len(stale) <= max(rows, 32 * first)
    assert set(stale) <= set(plan.known)
    assert list(plan.masks) == masks[: len(plan.masks)]
    assert not masks or masks[0] in plan.candidates
    assert plan.candidates == list(plan.predictors)[: len(plan.candidates)]
    # All that it can commit, but what is cached at once, fits into the next forward with a mask and its predictor.
    assert len(plan.candidates) + 2 <= rows
    for position, row in plan.predictors.items():
        assert plan.positions[row] == max(position - 1, 0)
        assert not len(plan.known) <= row < len(plan.known) + len(plan.nodes)


@pytest.mark.parametrize(
    ("known", "rows", "most"),
    [(27, 8, 5), (28, 8, 29), (40, 8, 24), (60, 8, 29), (40, 32, 29), (31, 24, 29), (11, 24, 21), (9, 64, 61)],
)
def test_with_few_rows_the_first_forward_fills_the_prompts_last_tile(known, rows, most):
    plan = plan_row(list(range(known)), list(range(known, known + 99)), guesses_of(999, {}), rows, END, first=True)
    assert len(plan.masks) == masks_at_first(known, rows) == most
    assert len(plan.candidates) == rows - 2


@given(states())
@settings(max_examples=200)
def test_guesses_are_paths_of_the_next_masks_the_likeliest_first_and_none_follows_an_end(state):
    stale, masks, guesses, rows = state
    nodes = plan_row(stale, masks, guesses, rows, END, first=False).nodes
    assert len(set(nodes)) == len(nodes) <= rows // 2
    likelihood = {-1: 1.0}
    for index, node in enumerate(nodes):
        parent = nodes[node.parent] if node.parent >= 0 else None
        assert node.position == (masks[0] if parent is None else masks[masks.index(parent.position) + 1])
        assert parent is None or parent.token not in END
        which = guesses.tokens[node.position].tolist().index(node.token)
        likelihood[index] = likelihood[node.parent] * guesses.probs[node.position, which]
    order = [likelihood[index] for index in range(len(nodes))]
    assert order == pytest.approx(sorted(order, reverse=True), rel=1e-5)


@given(states())
@settings(max_examples=200)
def test_a_guess_sees_its_path_and_the_masks_after_it_and_no_one_else_sees_a_guess(state):
    plan = plan_row(*state, END, first=False)
    seen = visible_rows(plan, plan.count + 3)
    known, end = len(plan.known), len(plan.known) + len(plan.nodes)
    kind = ["known"] * known + ["guess"] * len(plan.nodes) + ["mask"] * len(plan.masks) + ["none"] * 3
    for row, of in enumerate(kind):
        path = set()
        at = row - known if of == "guess" else -1
        while at >= 0:
            path, at = path | {known + at}, plan.nodes[at].parent
        for key, other in enumerate(kind):
            expected = row == key
            if of != "none":
                expected |= other == "known" or key in path
                expected |= other == "mask" and (of != "guess" or plan.positions[key] > plan.positions[row])
            assert seen[row, key] == expected, (row, key, end)


def test_nothing_is_verified_after_an_end():
    """Guesses 50 and, as its child, the end 99 are both right; the row of 99 says 51."""
    plan = RowPlan([3], [Node(4, 50, -1), Node(5, 99, 0)], [4, 5, 6], {4: 0, 5: 3, 6: 4}, [4, 5, 6])
    none = np.zeros(3, dtype=np.bool_)
    rows = {"chosen": np.array([50, 1, 2], np.int32), "guessed": np.array([99, 51], np.int32)}
    scores = {"scores": np.zeros(3, np.float32), "guessed_scores": np.ones(2, np.float32)}
    result = StepResult(**rows, **scores, commit=none, tokens=np.zeros(9, np.int32))
    path, verified = walk(plan, {4: 0, 5: 1, 6: 2}, result, END)
    assert path == [0, 1]
    assert verified == {4: (50, 0.0), 5: (99, 1.0)}


class Oracle:
    """The tree without a tree: a plain forward for the masks, then one forward for each guess that turns out right.

    Keys and values are kept in a dictionary by position and layer. Of `plan_row` it takes which positions a forward
    holds; who sees whom is written here once more, for a path instead of a tree.
    """

    def __init__(self, model, canvas, rows, tau):
        self.model, self.canvas, self.rows, self.tau = model, canvas, rows, tau
        self.tokens = canvas.tokens.tolist()
        self.cached = {}
        self.guesses = guesses_of(len(self.tokens), {})

    def predict(self, known, path, masks):
        """Float64 distributions after the rows of known tokens, of a path of guesses and of masks; and their K/V."""
        rows = [*known, *path, *masks]
        kind = ["known"] * len(known) + ["path"] * len(path) + ["mask"] * len(masks)
        before = [at for at in sorted(self.cached) if at not in known]

        def sees(row, key):
            if kind[key] == "known":
                return True
            if kind[key] == "path":
                return kind[row] == "path" and rows[key] <= rows[row]
            return kind[row] != "path" or rows[key] > rows[row]

        mask = [[True] * len(before) + [sees(row, key) for key in range(len(rows))] for row in range(len(rows))]
        layers = {}

        class Cache:
            def update(_, layer, keys, values):
                layers[layer] = keys, values
                old = [self.cached[at][layer] for at in before]
                return (
                    mx.concatenate([*(k for k, _ in old), keys], axis=2),
                    mx.concatenate([*(v for _, v in old), values], axis=2),
                )

        ids = [self.tokens[at] for at in known] + list(path.values()) + [self.canvas.mask_id] * len(masks)
        logits = self.model(mx.array([ids]), positions=mx.array([rows]), mask=mx.array([[mask]]), kv=Cache())
        final = {
            at: {layer: (k[:, :, row : row + 1], v[:, :, row : row + 1]) for layer, (k, v) in layers.items()}
            for row, at in enumerate(rows)
            if kind[row] != "mask"
        }
        logits = mx.where(self.forbidden, -mx.inf, logits[0].astype(mx.float32))
        return np.array(mx.softmax(logits, axis=-1)), final

    def step(self, first):
        mask_id, ends = self.canvas.mask_id, self.canvas.end_ids
        open_masks = np.flatnonzero(self.canvas.open_masks(np.array(self.tokens))).tolist()
        stale = [at for at, token in enumerate(self.tokens) if token != mask_id and at not in self.cached]
        plan = plan_row(stale, open_masks, self.guesses, self.rows, ends, first=first)
        probs, final = self.predict(plan.known, {}, plan.masks)
        row_of = {at: index for index, at in enumerate([*plan.known, *plan.masks])}
        plain = {at: probs[row_of[max(at - 1, 0)]] for at in plan.predictors}
        commits = {at: int(plain[at].argmax()) for at in plan.candidates if plain[at].max() >= self.tau}

        path, paths = {}, {()}  # the guesses that were right, and every path of the tree
        for node in plan.nodes:
            above, one = [], node
            while True:
                above.append((one.position, one.token))
                if one.parent < 0:
                    break
                one = plan.nodes[one.parent]
            paths.add(tuple(reversed(above)))
        for index, at in enumerate(plan.candidates):
            if index and list(path)[-1] == at - 1:
                probs, final = self.predict(plan.known, path, plan.masks)
                token = int(probs[len(plan.known) + len(path) - 1].argmax())
            elif not index or at in commits:
                token = int(plain[at].argmax())
            else:
                break
            commits[at] = token
            if (*path.items(), (at, token)) not in paths:
                break
            path[at] = token
            if token in ends:
                break
        if path:
            _, final = self.predict(plan.known, path, plan.masks)
        self.cached |= {at: kv for at, kv in final.items() if self.tokens[at] != mask_id or at in path}
        for at, p in plain.items():
            best = int(p.argmax())
            second = int(np.where(np.arange(len(p)) == best, -1, p).argmax())
            self.guesses.tokens[at], self.guesses.probs[at] = (best, second), (p[best], p[second])
        for at, token in commits.items():
            self.tokens[at] = token

    def decode(self, forbidden):
        self.forbidden, history = forbidden, []
        while self.canvas.open_masks(np.array(self.tokens)).any():
            self.step(not history)
            history.append(list(self.tokens))
        return history


TAUS = {
    "leftmost": 2.0,
    "threshold:tau=0.4": 0.4,
    "threshold:tau=0.3": 0.3,
    "threshold:tau=0.1": 0.1,
    "threshold:tau=0.95": 0.95,
}


@pytest.mark.parametrize("rule", list(TAUS)[:3])
@pytest.mark.parametrize("rows", [8, 12, 32])
@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_every_step_equals_a_plain_oracle_without_branches(dream_b, prompt, rows, rule):
    config = GenerationConfig(max_tokens=20, rule=rule, window=f"tree:rows={rows}")
    history = [step.tokens.tolist() for step in stream_generate(*dream_b, prompt, config)]
    expected = Oracle(dream_b[0], canvas_of(dream_b[1], prompt, config), rows, TAUS[rule]).decode(
        forbidden_ids(dream_b[1], dream_b[0].config.vocab_size)
    )
    assert len(history) == len(expected)
    assert history[:-1] == expected[:-1]


@pytest.mark.parametrize("rule", ["leftmost", "threshold:tau=0.95"])
@pytest.mark.parametrize(
    "prompt",
    [
        "Implement process(k): return whether k is even.",
        pytest.param("Write a function that adds two numbers.", marks=pytest.mark.slow),
    ],
)
def test_on_a_trained_model_too_where_most_guesses_are_right(pocket, rule, prompt):
    config = GenerationConfig(max_tokens=32, rule=rule, window="tree")
    history = [step.tokens.tolist() for step in stream_generate(*pocket, prompt, config)]
    ids = history[0][: len(history[0]) - 32]
    tau = TAUS[rule]
    oracle = Oracle(pocket[0], canvas_of(pocket[1], ids, config), 32, tau)
    expected = oracle.decode(forbidden_ids(pocket[1], pocket[0].config.vocab_size))
    assert history[:-1] == expected[:-1]
    assert len(history) < 10


@pytest.mark.parametrize("rule", ["leftmost", "threshold:tau=0.1"])
def test_holes_in_a_text_are_filled_as_the_oracle_fills_them(dream_b, rule):
    model, tokenizer = dream_b
    ids = {"mask_id": tokenizer.mask_id, "pad_id": tokenizer.pad_id, "end_ids": tokenizer.end_ids}
    for texts, lengths in [
        ([[3, 5, 7], [11, 13], [17, 19, 23]], [4, 9]),
        ([[], [11, 13], []], [5, 6]),
        ([[4], [], [9, 9]], [3, 12]),
    ]:
        canvas = Canvas.around(texts, lengths, **ids)
        config = GenerationConfig(rule=rule, window="tree:rows=8")
        forbidden = forbidden_ids(tokenizer, model.config.vocab_size)
        steps = denoise(model, [canvas], rule_for(config), window_for(config), config, forbidden=forbidden)
        history = [rows[0].tokens.tolist() for rows in steps]
        expected = Oracle(model, canvas, 8, TAUS[rule]).decode(forbidden)
        assert history[:-1] == expected[:-1]
        assert tokenizer.mask_id not in history[-1]


@pytest.mark.parametrize("before", [[3, 5], [8, 2], [40, 41], [7, 9]], ids=str)
def test_a_mask_after_an_end_predicts_the_next_hole_and_is_not_kept(dream_b, before):
    """Two holes with nothing between them; the text of the first ends at its first token."""
    model, tokenizer = dream_b
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size)
    config = GenerationConfig(rule="leftmost", window="tree:rows=8")

    def decoded(end_ids):
        canvas = Canvas.around([before, [], [9]], [3, 16], mask_id=tokenizer.mask_id, pad_id=tokenizer.pad_id, end_ids=end_ids)
        steps = denoise(model, [canvas], rule_for(config), window_for(config), config, forbidden=forbidden)
        return canvas, [rows[0].tokens.tolist() for rows in steps]

    ends = frozenset({decoded(frozenset())[1][-1][2]})
    canvas, history = decoded(ends)
    assert history[-2].count(tokenizer.mask_id) >= 2  # those after the end stay
    assert history[:-1] == Oracle(model, canvas, 8, 2.0).decode(forbidden)[:-1]


@pytest.mark.parametrize("rule", ["threshold:tau=0.3", "entropy-bound:gamma=6"])
def test_a_batch_decodes_each_row_as_alone(dream_b, rule):
    config = GenerationConfig(max_tokens=24, rule=rule, window="tree:rows=12")
    *_, together = stream_batch(*dream_b, PROMPTS, config)
    for prompt, step in zip(PROMPTS, together, strict=True):
        *_, alone = stream_generate(*dream_b, prompt, config)
        assert step.tokens.tolist() == alone.tokens.tolist()


@pytest.mark.parametrize("rows", [8, 32, 256])
def test_rejected_guesses_are_those_of_the_forward_that_were_not_committed(dream_b, rows):
    model, tokenizer = dream_b
    prompts = [
        tokenizer.encode_chat(text) for text in ("Implement f(n): return n.", "Write g(x, y) that adds the cubes of x and y.")
    ]
    config = GenerationConfig(max_tokens=40, rule="threshold:tau=0.3", window=f"tree:rows={rows}")
    before, seen = [np.zeros(0)] * 2, 0
    for steps in stream_batch(model, tokenizer, prompts, config):
        for row, step in enumerate(steps):
            at, tokens = step.rejected.T
            assert len(at) <= 64
            assert (np.diff(at) > 0).all()  # one a position
            assert not len(at) or (before[row][at] == tokenizer.mask_id).all()
            assert not len(at) or (step.tokens[at] != tokens).all()
            before[row], seen = step.tokens, seen + len(at)
    assert seen > 0
    for window in ("sliding", "whole"):
        every = stream_generate(model, tokenizer, prompts[0], GenerationConfig(max_tokens=16, window=window))
        assert not any(len(step.rejected) for step in every)


def test_of_several_guesses_at_a_position_the_likeliest_is_shown_as_rejected():
    A, B, C, D = range(4)
    nodes = [Node(9, A, -1), Node(10, C, 0), Node(9, B, -1), Node(10, C, 2), Node(10, D, 0), Node(10, D, 2), Node(11, D, 1)]
    plan = RowPlan([7, 8], nodes, [9, 10, 11], {}, [])
    canvas = np.full(16, 99, dtype=np.int32)
    canvas[9:11] = A, D  # A and then D were right
    assert rejected_guesses(plan, [0, 4], canvas).tolist() == [[9, B], [10, C], [11, D]]
    canvas[9] = 50  # none was
    assert rejected_guesses(plan, [], canvas).tolist() == [[9, A], [10, C], [11, D]]
    assert rejected_guesses(RowPlan([], [], [], {}, []), [], canvas).shape == (0, 2)


@pytest.mark.parametrize("slots", [1, 40])
def test_a_cache_that_grows_equals_one_that_does_not(dream_b, monkeypatch, slots):
    config = GenerationConfig(max_tokens=150, rule="threshold:tau=0.5", window="tree:rows=16")
    *_, expected = stream_generate(*dream_b, PROMPTS[1], config)
    monkeypatch.setattr("mlx_diffucoder.decoding.windows.cache.SLOTS", slots)
    *_, step = stream_generate(*dream_b, PROMPTS[1], config)
    assert step.tokens.tolist() == expected.tokens.tolist()


def test_an_answer_has_at_most_three_shapes_of_forward(dream_b, monkeypatch):
    shapes = Counter()
    forward = type(dream_b[0].model).__call__

    def counted(self, tokens, positions, mask, kv, rows=None):
        shapes[tokens.shape, mask.shape] += 1
        return forward(self, tokens, positions, mask, kv, rows)

    monkeypatch.setattr(type(dream_b[0].model), "__call__", counted)
    config = GenerationConfig(max_tokens=80, rule="threshold:tau=0.6", window="tree", ban_tokens=(*dream_b[1].end_ids,))
    *_, last = stream_generate(*dream_b, PROMPTS[0], config)
    assert last.nfe == sum(shapes.values()) > 10
    assert len(shapes) <= 3


def test_drawn_tokens_are_distributed_as_one_token_a_step_from_left_to_right(dream_b):
    """Without attention a row depends on its own token alone, so the exact distribution is a product of three."""
    model, tokenizer = dream_b
    kept = model.parameters()
    model.update(tree_map_with_path(lambda name, w: mx.zeros_like(w) if "o_proj" in name else w, kept))
    try:
        forbidden = forbidden_ids(
            tokenizer, model.config.vocab_size, [i for i in range(12, model.config.vocab_size) if i != tokenizer.mask_id]
        )
        config = GenerationConfig(max_tokens=3, rule="leftmost", window="tree:rows=8", temperature=3.0, seed=5)
        canvas = Canvas.of([3], 3, mask_id=tokenizer.mask_id, pad_id=tokenizer.pad_id, end_ids=frozenset())
        *_, steps = denoise(model, [canvas] * 300, rule_for(config), window_for(config), config, forbidden=forbidden)
        drawn = np.array([step.tokens[1:] for step in steps])
        logits = mx.where(forbidden, -mx.inf, model(mx.arange(12)[:, None])[:, 0].astype(mx.float32)) / 3.0
        follows = np.array(mx.softmax(logits, axis=-1))[:, :12]
    finally:
        model.update(kept)
    row = np.eye(12)[3]
    for at in range(3):
        row = row @ follows
        seen = np.bincount(drawn[:, at], minlength=12) / len(drawn)
        assert np.abs(seen - row).max() < 4 * np.sqrt(0.25 / len(drawn))
    pairs = np.zeros((12, 12))
    np.add.at(pairs, (drawn[:, 0], drawn[:, 1]), 1 / len(drawn))
    assert np.abs(pairs - (np.eye(12)[3] @ follows)[:, None] * follows).max() < 4 * np.sqrt(0.25 / len(drawn))


def test_the_schedule_which_commits_a_fixed_number_is_refused():
    with pytest.raises(ConfigError, match="rule schedule cannot commit on the window tree"):
        GenerationConfig(rule="schedule", window="tree:rows=8")


def test_a_family_without_a_shift_is_refused_with_its_name(dream_a, monkeypatch):
    monkeypatch.setattr(type(dream_a[0]), "shift", 0)
    with pytest.raises(ConfigError, match="window tree needs"):
        list(stream_generate(*dream_a, PROMPTS[0], GenerationConfig(max_tokens=8, rule="threshold", window="tree")))
