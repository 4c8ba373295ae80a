"""A trained checkpoint writes what the reference decoder writes with it, in float32."""

import json

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


@pytest.mark.parametrize("reference", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_answer_token_for_token(first_pocket, reference):
    check(first_pocket, ANSWERS[0], reference=reference)


@pytest.mark.slow
def test_an_answer_as_text(first_pocket):
    answer = ANSWERS[1]
    assert generate(*first_pocket, answer["prompt"], GenerationConfig.preset("exact", max_tokens=64)) == answer["text"]


@pytest.mark.slow
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_every_answer_token_for_token(first_pocket, answer, reference):
    check(first_pocket, answer, reference=reference)
