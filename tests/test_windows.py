"""Windows, against a slow plain oracle and against what must hold of any."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffucoder import GenerationConfig, Hooks, load, stream_batch, stream_generate
from mlx_diffucoder.errors import ConfigError

from .conftest import DATA

RULES = [
    "schedule",
    "threshold:tau=0.02",
    "factor:f=1.9",
    "entropy-bound:gamma=9",
    "local:tau=0.02,relaxed=0.01",
    "prior:tau=0.01",
    "stability:tau=0.02,epsilon=9,span=1",
]
WINDOWS = ["whole", "sliding:width=1,suffix=0", "sliding:width=5,suffix=2", "sliding:width=9,refresh=3"]
WINDOWS += ["blocks:size=4", "blocks-prefix:size=5", "blocks-dual:size=3", "drafts:ahead=3"]
PROMPTS = [[3, 5, 7, 11, 13, 17, 19], [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22], [1]]


class Oracle:
    """The sliding window as its docstring has it, for one row: a dictionary of keys and values a layer.

    No arrays are kept, no mask is used and no position is forwarded twice: only what is visible
    is put together, in order, before each forward.
    """

    def __init__(self, loaded, width, suffix):
        self.model, self.tokenizer = loaded
        self.width, self.suffix = width, suffix
        self.kept = {}  # position -> layer -> (keys, values)

    def update(self, layer, keys, values):
        for place, position in enumerate(self.live):
            self.fresh.setdefault(position, {})[layer] = (keys[:, :, place], values[:, :, place])
        visible = sorted(self.kept.keys() | self.fresh.keys())
        both = [(self.fresh.get(position) or self.kept[position])[layer] for position in visible]
        return mx.stack([k for k, _ in both], axis=2), mx.stack([v for _, v in both], axis=2)

    def look(self, canvas):
        """The candidates of one forward and their shifted logits."""
        masked = [i for i, token in enumerate(canvas) if token == self.tokenizer.mask_id]
        first = masked[0]
        stale = [i for i in range(len(canvas)) if i not in self.kept]
        start = min(stale[0], first - 1)
        end = min(first + self.width, len(canvas))
        self.live = [*range(start, min(end + self.suffix, len(canvas)))]
        self.live += [len(canvas) - 1] if self.live[-1] != len(canvas) - 1 else []
        self.fresh = {}
        tokens = mx.array([[int(canvas[i]) for i in self.live]])
        logits = self.model(tokens, positions=mx.array([self.live]), kv=self)[0]
        self.keep(masked)
        return self.shifted(logits, [i for i in masked if i < end])

    def shifted(self, logits, candidates):
        return candidates, mx.stack([logits[self.live.index(i - 1)] for i in candidates])

    def keep(self, masked):
        self.kept |= {i: self.fresh[i] for i in self.live if i not in masked}

    def decode(self, prompt, max_tokens, tau):
        """The threshold rule at temperature 0."""
        mask, known = self.tokenizer.mask_id, set(self.tokenizer.known_ids.tolist())
        canvas = np.array(prompt + [mask] * max_tokens)
        history = []
        while mask in canvas:
            positions, logits = self.look(canvas)
            probs = np.array(logits)
            probs[:, [i for i in range(probs.shape[1]) if i not in known or i == mask]] = -np.inf
            probs = np.exp(probs - probs.max(axis=1, keepdims=True))
            probs /= probs.sum(axis=1, keepdims=True)
            sure = probs.max(axis=1)
            entropy = -(probs * np.log(probs + 1e-10)).sum(axis=1)
            for place, position in enumerate(positions):
                if sure[place] >= tau or place == entropy.argmin():
                    canvas[position] = probs[place].argmax()
            history.append(canvas.tolist())
            ends = [i for i in range(len(prompt), len(canvas)) if canvas[i] in self.tokenizer.end_ids]
            if ends and mask not in canvas[: ends[0]]:
                break
        return history


class BlockOracle(Oracle):
    """Fast-dLLM's blocks as `Blocks` has them: everything forwarded last stays visible, right or stale."""

    def __init__(self, loaded, size, cache, start):
        super().__init__(loaded, 0, 0)
        self.size, self.cache, self.start, self.block = size, cache, start, None

    def look(self, canvas):
        masked = [i for i, token in enumerate(canvas) if token == self.tokenizer.mask_id]
        block = (masked[0] - self.start) // self.size
        opens, self.block = block != self.block, block
        start = self.start + block * self.size
        end = min(start + self.size, len(canvas))
        whole = opens or self.cache == "none"
        self.live = list(range(len(canvas))) if whole else list(range(start, end if self.cache == "dual" else len(canvas)))
        self.fresh = {}
        tokens = mx.array([[int(canvas[i]) for i in self.live]])
        logits = self.model(tokens, positions=mx.array([self.live]), kv=self)[0]
        self.kept |= self.fresh
        first_only = opens and self.cache != "none"
        return self.shifted(logits, [start] if first_only else [i for i in masked if i < end])


@pytest.mark.parametrize(("window", "cache"), [("blocks", "none"), ("blocks-prefix", "prefix"), ("blocks-dual", "dual")])
@pytest.mark.parametrize("size", [1, 5, 32])
def test_blocks_equal_a_plain_oracle_at_every_step(loaded, window, cache, size):
    prompt = PROMPTS[0]
    config = GenerationConfig(max_tokens=24, rule="threshold:tau=0.5", window=f"{window}:size={size}")
    history = [step.tokens.tolist() for step in stream_generate(*loaded, prompt, config)]
    expected = BlockOracle(loaded, size, cache, len(prompt)).decode(prompt, 24, 0.5)
    assert len(history) == len(expected) > 2
    assert history[:-1] == expected[:-1]


@pytest.mark.parametrize(("width", "suffix", "max_tokens"), [(1, 0, 24), (4, 0, 24), (5, 3, 24), (40, 8, 24), (30, 9, 150)])
@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_sliding_window_equals_a_plain_oracle_at_every_step(loaded, width, suffix, max_tokens, prompt):
    """150 tokens: the kept keys and values outgrow their first places."""
    config = GenerationConfig(max_tokens=max_tokens, rule="threshold:tau=0.5", window=f"sliding:width={width},suffix={suffix}")
    history = [step.tokens.tolist() for step in stream_generate(*loaded, prompt, config)]
    expected = Oracle(loaded, width, suffix).decode(prompt, max_tokens, 0.5)
    assert len(history) == len(expected) > 2
    assert history[:-1] == expected[:-1]


@pytest.mark.parametrize("rule", RULES)
def test_refreshed_at_every_step_and_as_wide_as_the_canvas_it_equals_the_whole(loaded, rule):
    for prompt in PROMPTS:
        whole = GenerationConfig(max_tokens=20, rule=rule)
        frozen = GenerationConfig(max_tokens=20, rule=rule, window="sliding:width=64,refresh=1")
        for one, other in zip(stream_generate(*loaded, prompt, whole), stream_generate(*loaded, prompt, frozen), strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()


def test_without_refresh_it_does_not_equal_the_whole_and_forwards_less(loaded):
    def last(window):
        *_, step = stream_generate(*loaded, PROMPTS[1], GenerationConfig(max_tokens=60, window=window))
        return step

    whole, frozen = last("whole"), last("sliding:width=8,suffix=2")
    assert frozen.positions < whole.positions / 3


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_slides_each_row_as_alone(loaded, rule):
    if rule == "schedule":
        pytest.skip("one quota for all rows: rows are not independent by definition")
    config = GenerationConfig(max_tokens=16, rule=rule, window="sliding:width=6,suffix=2")
    together = list(stream_batch(*loaded, PROMPTS, config))
    for row, prompt in enumerate(PROMPTS):
        *_, alone = stream_generate(*loaded, prompt, config)
        ends = [i for i in range(len(prompt), len(alone.tokens)) if alone.tokens[i] in loaded[1].end_ids]
        text = slice(0, ends[0] + 1 if ends else None)
        assert together[-1][row].tokens[text].tolist() == alone.tokens[text].tolist()


def test_the_cost_does_not_grow_with_the_canvas(pocket):
    prompt = "Implement process(k): return whether k is a prime number."
    steps = {}
    for max_tokens in (64, 256, 1024):
        config = GenerationConfig(max_tokens=max_tokens, rule="threshold", window="sliding")
        *_, steps[max_tokens] = stream_generate(*pocket, prompt, config)
    assert steps[1024].positions <= 1.1 * steps[64].positions
    assert steps[256].nfe == steps[64].nfe


@pytest.mark.slow
def test_stopping_at_the_end_changes_no_token_of_the_text(pocket):
    """The reference goes on behind the end token; the text is the same."""
    model, tokenizer = pocket
    prompt = "Implement process(k): return whether k is a prime number."
    *_, stopped = stream_generate(model, tokenizer, prompt, GenerationConfig(max_tokens=56, alg="maskgit_plus"))
    *_, whole = stream_generate(model, tokenizer, prompt, GenerationConfig(max_tokens=56, alg="maskgit_plus", reference=True))
    assert stopped.tokens.tolist() == whole.tokens.tolist()


@pytest.mark.parametrize(
    "options", [{}, {"alg": "maskgit_plus"}, {"steps": 9}, {"rule": "threshold:tau=0.5"}, {"temperature": 1.0}]
)
@pytest.mark.parametrize("ahead", [1, 2, 8])
def test_drafts_decode_as_the_whole_canvas_at_every_step(loaded, options, ahead):
    for prompt in PROMPTS:
        whole = list(stream_generate(*loaded, prompt, GenerationConfig(max_tokens=20, seed=1, **options)))
        drafts = GenerationConfig(max_tokens=20, seed=1, window=f"drafts:ahead={ahead}", **options)
        for one, other in zip(whole, stream_generate(*loaded, prompt, drafts), strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert other.nfe <= one.nfe


def test_drafts_decode_a_batch_as_the_whole_canvas(loaded):
    def canvases(window):
        config = GenerationConfig(max_tokens=9, window=window)
        return [[row.tokens.tolist() for row in rows] for rows in stream_batch(*loaded, PROMPTS, config)]

    assert canvases("drafts:ahead=4") == canvases("whole")


@pytest.mark.slow
def test_drafts_save_forwards_on_a_trained_model(pocket):
    prompt = "Implement process(k): return whether k is a prime number."
    *_, whole = stream_generate(*pocket, prompt, GenerationConfig(max_tokens=64))
    *_, drafts = stream_generate(*pocket, prompt, GenerationConfig(max_tokens=64, window="drafts"))
    assert drafts.tokens.tolist() == whole.tokens.tolist()
    assert drafts.nfe * 2 < whole.nfe
    assert drafts.positions == drafts.nfe * 8 * len(whole.tokens)


def test_hooks_need_the_whole_canvas(loaded):
    look = Hooks(logits=lambda index, tokens, logits: logits)
    with pytest.raises(ConfigError, match="window must be 'whole'"):
        stream_generate(*loaded, [1, 2], GenerationConfig(window="sliding"), hooks=look)


MODEL, TOKENIZER = load(DATA / "dream-b")


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.lists(st.one_of(st.integers(0, 752), st.just(757)), min_size=1, max_size=9), min_size=1, max_size=3),
    max_tokens=st.integers(1, 14),
    rule=st.sampled_from(RULES),
    window=st.sampled_from(WINDOWS),
    alg=st.sampled_from(["entropy", "maskgit_plus", "topk_margin"]),
    temperature=st.sampled_from([0.0, 1.0]),
    top_p=st.sampled_from([1.0, 0.7]),
    top_k=st.sampled_from([0, 5]),
    seed=st.integers(0, 9),
)
def test_any_rule_on_any_window_ends_fills_every_mask_and_touches_nothing_else(
    prompts, max_tokens, rule, window, alg, temperature, top_p, top_k, seed
):
    config = GenerationConfig(
        max_tokens=max_tokens, rule=rule, window=window, alg=alg, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    history = list(stream_batch(MODEL, TOKENIZER, prompts, config))
    masks = max(prompt.count(757) for prompt in prompts) + max_tokens
    assert history[-1][0].nfe <= masks + max(map(len, prompts))
    for row, prompt in enumerate(prompts):
        last = history[-1][row].tokens
        assert TOKENIZER.mask_id not in last
        assert last.max() <= TOKENIZER.known_ids.max()
        assert [kept for kept, given in zip(last, prompt, strict=False) if given != 757] == [t for t in prompt if t != 757]
        touched = np.concatenate([step[row].committed for step in history])
        assert len(set(touched.tolist())) == len(touched)
