"""Texts to measure on and to learn from: rows of every kind, and the errors in one."""

import json

import pytest

from mlx_diffucoder import load
from mlx_diffucoder.data import HELD_OUT, encode_samples, read_samples
from mlx_diffucoder.errors import CheckpointError, TaskError

from .conftest import DATA


def written(tmp_path, *rows):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_every_kind_of_row_is_read(tmp_path, pocket):
    _, tokenizer = pocket
    stub = "def f(x):\n    '''Double x.'''\n"
    rows = [
        {"prompt": "Say hi.", "completion": "hi"},
        {"messages": [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "hi"}]},
        {"text": "hi there"},
        {"task_id": "a", "prompt": "Say f.", "entry_point": "f", "canonical_solution": "def f():\n  pass\n", "test": "pass"},
        {"task_id": "b", "prompt": stub, "entry_point": "f", "canonical_solution": "    return 2 * x\n", "test": "pass"},
        {"task_id": 1, "text": "Double x.", "code": "def f(x): return 2 * x", "test_list": ["assert f(1) == 2"]},
    ]
    samples = read_samples(written(tmp_path, *rows))
    assert [one.answer for one in samples] == [
        *("hi", "hi", "hi there", "def f():\n  pass\n"),
        f"```python\n{stub}    return 2 * x\n```",
        "def f(x): return 2 * x",
    ]
    asked, chat, plain, *_ = encode_samples(samples, tokenizer, 2048)
    assert list(asked.prompt) == tokenizer.encode_chat("Say hi.")
    assert (asked.prompt, asked.answer) == (chat.prompt, chat.answer)
    im_end, endoftext = tokenizer.encode("<|im_end|>") + tokenizer.encode("<|endoftext|>")
    assert list(asked.answer) == [*tokenizer.encode("hi"), im_end]
    assert [*plain.prompt, *plain.answer] == [*tokenizer.encode("hi there"), endoftext]
    assert len(plain.prompt) == 1
    assert len(read_samples(tmp_path / "texts.jsonl", 2)) == 2


def test_special_tokens_in_an_answer_are_text(tmp_path, pocket):
    _, tokenizer = pocket
    (text,) = encode_samples(read_samples(written(tmp_path, {"prompt": "x", "completion": "a <|mask|> b"})), tokenizer, 2048)
    assert tokenizer.mask_id not in text.answer


def test_without_a_chat_template_a_prompt_is_taken_as_it_is(tmp_path, pocket, monkeypatch):
    _, tokenizer = pocket
    monkeypatch.setattr(tokenizer, "chat_template", None)
    (text,) = encode_samples(read_samples(written(tmp_path, {"prompt": "Say", "completion": " hi"})), tokenizer, 2048)
    assert list(text.prompt) == tokenizer.encode("Say")
    assert text.answer[-1] == tokenizer.encode("<|endoftext|>")[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "not an object"),
        ({"answer": "x"}, "prompt and completion, or messages, or text"),
        ({"text": "  "}, "text is empty"),
        ({"text": 3}, "text is a JSON int"),
        ({"completion": "x"}, "prompt is missing"),
        ({"prompt": "x", "completion": ""}, "completion is empty"),
        ({"messages": "x"}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "two or more"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]}, "must be the assistant's"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}, "messages: content is missing"),
        ({"task_id": 1, "text": "x", "test_list": ["assert f()"]}, "no solution"),
        ({"task_id": 1, "prompt": "x", "canonical_solution": "x"}, "not a task of a known format"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_used_names_file_and_line(tmp_path, row, message):
    path = written(tmp_path, {"text": "fine text"}, row)
    with pytest.raises(TaskError) as caught:
        read_samples(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_a_text_that_does_not_fit_names_file_and_line(tmp_path, pocket):
    _, tokenizer = pocket
    path = written(tmp_path, {"prompt": "x", "completion": "y " * 50})
    with pytest.raises(TaskError, match=rf"{path}:1: is \d+ tokens long, but the model's context is 40"):
        encode_samples(read_samples(path), tokenizer, 40)
    with pytest.raises(TaskError, match=r":1: .*half of a pair"):
        encode_samples(read_samples(written(tmp_path, '{"text": "a \\ud800"}')), tokenizer, 40)
    roles = [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]
    tokenizer_that_refuses = load("pocket", lazy=True)[1]
    tokenizer_that_refuses.chat_template = "{{ raise_exception('no robots') }}"
    with pytest.raises(CheckpointError, match=r":1: .*no robots"):
        encode_samples(read_samples(written(tmp_path, {"messages": roles})), tokenizer_that_refuses, 40)


def test_a_file_of_nothing_is_named(tmp_path):
    with pytest.raises(TaskError, match="holds no text"):
        read_samples(written(tmp_path, "", ""))
    with pytest.raises(TaskError, match="No such file"):
        read_samples(tmp_path / "none.jsonl")


def test_the_bundled_texts_are_the_unseen_tasks():
    tasks = map(json.loads, (DATA.parents[1] / "bench/tasks/functions.jsonl").read_text().splitlines())
    unseen = [(task["prompt"], task["canonical_solution"]) for task in tasks if task["split"] == "unseen"]
    assert [(one.messages[0]["content"], one.answer) for one in read_samples(HELD_OUT)] == unseen
