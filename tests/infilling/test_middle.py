"""Holes for models that do not see the text after them: by the tokens of their tokenizer, or not at all."""

import json
import shutil

import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, generate, load
from mlx_diffucoder.errors import ConfigError, PromptError
from mlx_diffucoder.infilling.fill import fill
from mlx_diffucoder.trace.reader import read_trace
from mlx_diffucoder.trace.writer import trace_writer

from ..conftest import DATA

FOLDER = DATA / "stable-diffcoder-a"
PARTS = ["def add(a, b):\n    ", None, "\n\nprint(add(1, 2))\n"]


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    """The checkpoint with the third token, which the tokenizer of the published model has."""
    folder = tmp_path_factory.mktemp("middle") / "model"
    shutil.copytree(FOLDER, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    token = {**content["added_tokens"][-1], "id": 761, "content": "<[fim-middle]>"}
    path.write_text(json.dumps(content | {"added_tokens": [*content["added_tokens"], token]}))
    return load(folder)


def test_without_all_tokens_it_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="Stable-DiffCoder models cannot do infill: a block does not see the text after it"):
        fill(*load(FOLDER), PARTS)


def test_the_text_after_a_hole_stands_before_it_in_the_prompt(with_tokens):
    model, tokenizer = with_tokens
    filled = fill(model, tokenizer, PARTS)
    prompt = f"<[fim-suffix]>{PARTS[2].lstrip()}<[fim-prefix]>{PARTS[0][:-1]}<[fim-middle]>"
    alone = generate(model, tokenizer, prompt, GenerationConfig(max_tokens=64, raw=True, ban_tokens=(6, 7, 761)))
    assert filled.holes == [alone.removeprefix(" ").removesuffix("\n").removesuffix("\n")]
    assert filled.seen == len(tokenizer.encode(prompt)) - 3
    assert filled.nfe >= len(filled.rows)
    assert np.isfinite(filled.score)


def test_a_length_is_kept_and_a_later_hole_sees_the_text_of_the_earlier(with_tokens, tmp_path):
    model, tokenizer = with_tokens
    filled = fill(model, tokenizer, ["x = ", 5, "\ny = ", 3, "\n"])
    assert filled.lengths == [5, 3]
    second = fill(model, tokenizer, [f"x = {filled.holes[0]}\ny = ", 3, "\n"])
    assert second.holes == filled.holes[1:]
    with trace_writer(tmp_path / "t.jsonl", tokenizer, GenerationConfig(), "m") as trace:
        fill(model, tokenizer, [*PARTS[:1], 6, *PARTS[2:]], trace=trace)
        with pytest.raises(ConfigError, match="trace holds one text, and Stable-DiffCoder models fill one hole after another"):
            fill(model, tokenizer, ["x = ", 5, "\ny = ", 3, "\n"], trace=trace)
    assert len(read_trace(tmp_path / "t.jsonl").records) >= 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"instruction": "add them"}, ConfigError, "fill a hole without an instruction"),
        ({"config": GenerationConfig(window="sliding:width=8")}, ConfigError, "window sliding:width=8 is not for"),
        ({"config": GenerationConfig(max_tokens=9000)}, PromptError, "max_tokens 9000 does not fit"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(with_tokens, given, error, message):
    with pytest.raises(error, match=message):
        fill(*with_tokens, PARTS, **given)
