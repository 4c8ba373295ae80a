"""A trained checkpoint writes what the reference decoder writes with it, in float32."""

import json
from itertools import islice

import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, generate, stream_generate

from ..conftest import DATA

ANSWERS = [json.loads(line) for line in (DATA / "pocket_generations.jsonl").read_text().splitlines()]


def check(loaded, answer, **options):
    model, tokenizer = loaded
    config = GenerationConfig.preset("exact", max_tokens=len(answer["output_ids"]), **options)
    assert tokenizer.encode_chat(answer["prompt"]) == answer["prompt_ids"]
    *_, last = stream_generate(model, tokenizer, answer["prompt"], config)
    assert last.tokens.tolist() == answer["prompt_ids"] + answer["output_ids"]


def test_an_answers_first_tokens_are_committed_where_the_reference_has_them(first_pocket):
    """The whole answers take minutes without OpenBLAS: see below."""
    model, tokenizer = first_pocket
    answer, start = ANSWERS[0], len(ANSWERS[0]["prompt_ids"])
    config = GenerationConfig.preset("exact", max_tokens=len(answer["output_ids"]))
    *_, step = islice(stream_generate(model, tokenizer, answer["prompt"], config), 6)
    written = np.flatnonzero(step.tokens != tokenizer.mask_id)[start:]
    assert len(written) == 6
    assert step.tokens[written].tolist() == [answer["output_ids"][at - start] for at in written]


@pytest.mark.slow
def test_an_answer_as_text(first_pocket):
    answer = ANSWERS[1]
    assert generate(*first_pocket, answer["prompt"], GenerationConfig.preset("exact", max_tokens=64)) == answer["text"]


@pytest.mark.slow
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_every_answer_token_for_token(first_pocket, answer, reference):
    check(first_pocket, answer, reference=reference)
