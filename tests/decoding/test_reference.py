"""The plain reference decoder: hooks, every step of the schedule, and the fast loop held against it."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, Hooks, stream_batch, stream_generate
from mlx_diffucoder.config import ALGORITHMS
from mlx_diffucoder.decoding.reference import reference_decode
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.errors import CheckpointError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import canvas_of

PROMPT = [1, 2, 3, 4]
exact = partial(GenerationConfig.preset, "exact")


RULES = ["schedule", "threshold:tau=0.4", "entropy-bound:gamma=6"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [{}, {"alg": "topk_margin"}, {"top_p": 0.9}, {"top_k": 300, "alg": "maskgit_plus"}])
def test_the_fast_loop_commits_what_the_plain_decoder_commits_at_every_step(dream_b, rule, options):
    """In a batch with masks in its prompts; where text has ended, the fast loop stops and the plain decoder goes on."""
    model, tokenizer = dream_b
    mask = tokenizer.mask_id
    prompts = [[mask, 5, 6, mask, 7], [1, 2, 3, 4, 5, 6, mask, 8]]
    config = GenerationConfig(max_tokens=14, steps=14 if rule == "schedule" else None, rule=rule, window="whole", **options)
    fast = list(stream_batch(model, tokenizer, prompts, config))
    canvases = [canvas_of(tokenizer, one, config) for one in prompts]
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size)
    plain = reference_decode(model, canvases, rule_for(config), config, forbidden=forbidden)
    plain = [rows for rows in plain if any(len(step.committed) for step in rows)]
    assert len(fast) > 1
    for ours, theirs in zip(fast, plain, strict=False):
        for one, other in zip(ours, theirs, strict=True):
            if not len(one.committed):
                continue  # the text has ended
            assert one.committed.tolist() == other.committed.tolist()
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-5)
            decided = other.tokens != mask
            assert one.tokens[decided].tolist() == other.tokens[decided].tolist()


def test_the_reference_runs_every_step(dream_b):
    history = list(stream_generate(*dream_b, PROMPT, exact(max_tokens=3, steps=30, reference=True)))
    assert [step.index for step in history] == list(range(30))
    assert history[-1].nfe == 30
    assert history[-1].positions == 30 * 7


def test_every_step_of_the_reference_draws_anew(dream_b):
    """At the highest temperature the noise alone chooses: a step that starts from the same masks writes something else."""
    first, written = [], set()

    def mask_all_again(index, tokens, logits):
        first.append(tokens)
        written.add(tuple(tokens[0].tolist()))
        return first[0]

    config = exact(max_tokens=24, steps=12, temperature=1e6, seed=0)
    list(stream_generate(*dream_b, PROMPT, config, hooks=Hooks(tokens=mask_all_again)))
    assert len(written) > 9


def test_an_untrained_model_emits_unknown_ids_only_as_the_reference(dream_b):
    """With a head that loves an id past the tokenizer and the mask token, the guard must bite."""
    model, tokenizer = dream_b
    loved = mx.zeros((768,)).at[mx.array([tokenizer.mask_id, 765])].add(1e4)
    love = Hooks(logits=lambda index, tokens, logits: logits + loved)
    guarded = list(stream_generate(model, tokenizer, PROMPT, exact(max_tokens=6), hooks=love))
    assert guarded[-1].tokens.max() <= tokenizer.known_ids.max()
    assert tokenizer.mask_id not in guarded[-1].tokens
    free = list(stream_generate(model, tokenizer, PROMPT, exact(max_tokens=6, reference=True), hooks=love))
    assert set(free[-1].tokens[4:].tolist()) <= {tokenizer.mask_id, 765}


def test_tokens_hook_sees_the_start_and_every_step_and_may_write(dream_b):
    model, tokenizer = dream_b
    seen = []

    def force(index, tokens, logits):
        seen.append((index, None if logits is None else logits.shape))
        tokens[:, 5] = 42
        return tokens

    config = exact(max_tokens=3, steps=3, reference=True)
    *_, last = stream_generate(model, tokenizer, PROMPT, config, hooks=Hooks(tokens=force))
    assert seen == [(None, None)] + [(i, (1, 7, 768)) for i in range(3)]
    assert last.tokens[5] == 42


def test_logits_hook_sees_the_shifted_logits_of_every_position(dream_b):
    model, tokenizer = dream_b
    canvas = mx.array([[*PROMPT, tokenizer.mask_id]])
    plain = model(canvas)
    seen = []

    def look(index, tokens, logits):
        seen.append(logits)
        return logits

    list(stream_generate(model, tokenizer, PROMPT, exact(max_tokens=1), hooks=Hooks(logits=look)))
    assert mx.allclose(seen[0][:, 1:], plain[:, :-1])
    assert mx.allclose(seen[0][:, 0], plain[:, 0])


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_output_that_is_not_a_number_is_reported(dream_b, alg):
    nothing = Hooks(logits=lambda index, tokens, logits: logits * float("nan"))
    with pytest.raises(CheckpointError, match="not a number"):
        list(stream_generate(*dream_b, PROMPT, exact(max_tokens=2, alg=alg, seed=1), hooks=nothing))


@pytest.mark.parametrize("rule", ["schedule", "threshold"])
def test_a_hook_that_masks_again_does_not_go_on_for_ever(dream_b, rule):
    model, tokenizer = dream_b

    def mask_again(index, tokens, logits):
        tokens[:, -1] = tokenizer.mask_id
        return tokens

    config = GenerationConfig(max_tokens=4, steps=3 if rule == "schedule" else None, rule=rule, window="whole")
    history = list(stream_generate(model, tokenizer, PROMPT, config, hooks=Hooks(tokens=mask_again)))
    assert len(history) == (3 if rule == "schedule" else 4)


@pytest.mark.parametrize("rule", ["schedule", "threshold"])
def test_a_hook_that_leaves_nothing_to_do_gives_its_canvas(dream_b, rule):
    def fill(index, tokens, logits):
        return mx.where(tokens == dream_b[1].mask_id, 42, tokens)

    config = GenerationConfig(max_tokens=3, rule=rule, window="whole")
    steps = list(stream_generate(*dream_b, PROMPT, config, hooks=Hooks(tokens=fill)))
    assert len(steps) == (3 if rule == "schedule" else 1)
    for step in steps:
        assert step.tokens.tolist() == [*PROMPT, 42, 42, 42]
        assert len(step.committed) == 0


def test_the_reference_draws_positions_at_any_temperature_of_scores(dream_b):
    def order(seed):
        config = exact(max_tokens=12, alg_temp=1.0, seed=seed, reference=True, alg="maskgit_plus")
        return [step.committed.tolist() for step in stream_generate(*dream_b, PROMPT, config)]

    assert order(1) != order(2)
