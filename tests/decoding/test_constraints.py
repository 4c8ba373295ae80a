"""What an answer must start with, end before, and never hold; and several answers ranked."""

import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, generate, stream_generate
from mlx_diffucoder.best_of import best_of
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.generation import Answer, prompt_ids

DRAWN = {"max_tokens": 24, "temperature": 1.5, "rule": "threshold:tau=0.3"}


def test_a_prefill_stands_on_the_canvas_and_starts_the_answer(dream_b):
    model, tokenizer = dream_b
    for raw in (False, True):
        plain, config = (
            GenerationConfig(max_tokens=6, raw=raw),
            GenerationConfig(max_tokens=6, raw=raw, prefill="def f(x):\n  <|mask|>"),
        )
        ids = prompt_ids(model, tokenizer, "hi", config)
        assert ids == prompt_ids(model, tokenizer, "hi", plain) + tokenizer.encode_plain(config.prefill)
        assert tokenizer.mask_id not in ids  # what looks like a special token is text
        text = generate(model, tokenizer, "hi", config)
        assert text == config.prefill + generate(model, tokenizer, ids, plain)


@pytest.mark.parametrize("seed", range(6))
def test_until_cuts_the_answer_before_the_text_and_saves_forwards(dream_b, seed):
    model, tokenizer = dream_b
    config = GenerationConfig(**DRAWN, seed=seed, until=())
    whole = generate(model, tokenizer, "hi", config)
    stop = whole[len(whole) // 3 :][:2]
    assert stop
    until = GenerationConfig(**DRAWN, seed=seed, until=("not in there", stop))
    assert generate(model, tokenizer, "hi", until) == whole[: whole.index(stop)]
    steps = [list(stream_generate(model, tokenizer, "hi", one)) for one in (config, until)]
    assert len(steps[1]) <= len(steps[0])
    answer = Answer.of(tokenizer, steps[1][-1], len(prompt_ids(model, tokenizer, "hi", until)), until)
    assert answer.ended
    assert stop in tokenizer.decode([*answer.ids])
    assert stop not in tokenizer.decode(answer.ids[:-1])
    assert answer.useful_tokens == len(answer.ids)


def test_what_is_shown_of_an_answer_never_has_to_be_taken_back():
    assert Answer("a\nb\n\n").final_text(["\n\n\n"]) == "a\nb"
    assert Answer("a\nb").final_text(["\n\n"]) == "a\nb"
    assert Answer("ab<|\ufffd").final_text(["<|end|>"]) == "ab"
    assert Answer("a\n", ended=True).final_text(["\n\n"]) == "a\n"


def test_until_is_looked_for_behind_the_prefill(first_pocket):
    config = GenerationConfig(max_tokens=48, prefill="def process(k):\n", until=("def", "):\n    i"))
    text = generate(*first_pocket, "Implement process(k): return whether k is a prime number.", config)
    assert text == "def process(k"


def test_a_banned_token_is_never_chosen(dream_b):
    model, tokenizer = dream_b
    *_, last = stream_generate(model, tokenizer, [1, 2, 3], GenerationConfig(max_tokens=20))
    ids, counts = np.unique(last.tokens[3:], return_counts=True)
    common = int(ids[counts.argmax()])
    *_, without = stream_generate(model, tokenizer, [1, 2, 3], GenerationConfig(max_tokens=20, ban_tokens=[common]))
    assert common not in without.tokens[3:]
    assert GenerationConfig(ban_tokens=["x"]).to_dict()["ban_tokens"] == ("x",)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ban_tokens": ["two words"]}, "ban_tokens: 'two words' is not one token"),
        ({"ban_tokens": [10**9]}, "is not an id"),
        ({"ban_tokens": "x"}, "ban_tokens must be a list"),
        ({"ban_tokens": [-1]}, "ban_tokens must be"),
        ({"ban_tokens": [True]}, "ban_tokens must be"),
        ({"until": [""]}, "until must be"),
        ({"until": "x"}, "until must be a list"),
        ({"prefill": 3}, "prefill must be text"),
    ],
)
def test_a_constraint_that_cannot_work_names_its_field(dream_b, fields, said):
    with pytest.raises(ConfigError, match=said):
        generate(*dream_b, "hi", GenerationConfig(max_tokens=2, **fields))


def test_no_token_left_is_said(dream_b):
    model, tokenizer = dream_b
    every = tokenizer.known_ids.tolist()
    with pytest.raises(ConfigError, match="ban_tokens bans every token"):
        generate(model, tokenizer, "hi", GenerationConfig(max_tokens=2, ban_tokens=every))


def test_answers_come_in_the_order_of_their_probability(dream_b):
    model, tokenizer = dream_b
    config = GenerationConfig(**DRAWN, seed=1)
    ranking = best_of(model, tokenizer, [3, 5, 7], config, 4)
    scores = [one.score for one in ranking.answers]
    assert scores == sorted(scores, reverse=True)
    assert len({one.answer.text for one in ranking.answers}) > 1
    assert ranking.nfe > 4
    with pytest.raises(ConfigError, match="same answer 2 times"):
        best_of(model, tokenizer, [3, 5, 7], GenerationConfig(max_tokens=4), 2)
