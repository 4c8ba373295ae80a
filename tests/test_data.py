"""Texts to measure on and to learn from: rows of every kind, and the errors in one."""

import json

import pytest

from mlx_diffucoder import load
from mlx_diffucoder.data import HELD_OUT, TOGETHER, encode_samples, read_samples
from mlx_diffucoder.errors import CheckpointError, TaskError

from .conftest import DATA


def written(tmp_path, *rows):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


ASK, HI = {"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "hi"}


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
    assert [asked.prompt.tolist(), asked.answer.tolist()] == [chat.prompt.tolist(), chat.answer.tolist()]
    im_end, endoftext = tokenizer.encode("<|im_end|>") + tokenizer.encode("<|endoftext|>")
    assert list(asked.answer) == [*tokenizer.encode("hi"), im_end]
    assert [*plain.prompt, *plain.answer] == [*tokenizer.encode("hi there"), endoftext]
    assert len(plain.prompt) == 1
    assert len(read_samples(tmp_path / "texts.jsonl", 2)) == 2


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "Say hi.", "input": "", "output": "hi", "text": "### Say hi. hi"}, [ASK]),
        ({"instruction": "Say", "input": "hi.", "output": "hi"}, [ASK | {"content": "Say\n\nhi."}]),
        ({"instruction": "Say hi.", "output": "hi", "system": "x", "history": [["a", "b"]]}, ["x", "a", "b", ASK]),
        ({"conversations": [{"from": "human", "value": "Say hi."}, {"from": "gpt", "value": "hi"}]}, [ASK]),
        ({"conversations": [{"from": "human", "value": "Say hi."}, {"from": "gpt", "value": "hi"}], "system": "x"}, ["x", ASK]),
        ({"prompt": [ASK], "completion": [HI]}, [ASK]),
        ({"messages": [{"role": "system", "content": ""}, ASK, HI]}, ["", ASK]),
        ({"messages": [{"role": "developer", "content": "x"}, ASK, HI], "system": "y", "tools": []}, ["x", ASK]),
        ({"messages": [ASK | {"content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]}, HI]}, [ASK]),
        ({"messages": None, "prompt": "Say hi.", "completion": "hi", "text": None, "suffix": None}, [ASK]),
    ],
    ids=str,
)
def test_rows_of_data_sets_are_read_as_they_are(tmp_path, row, messages):
    (sample,) = read_samples(written(tmp_path, row))
    assert sample.answer == "hi"
    found = [(one["role"], one["content"]) for one in sample.messages]
    assert [content for _, content in found] == [one if isinstance(one, str) else one["content"] for one in messages]
    roles = {1: ["user"], 2: ["system", "user"], 4: ["system", "user", "assistant", "user"]}
    assert [role for role, _ in found] == roles[len(found)]


@pytest.mark.parametrize("spell", ["indent", "one line", "bom", "crlf"])
def test_an_array_of_rows_is_read(tmp_path, spell):
    rows = [{"text": "one two"}, {"text": "three four"}]
    text = json.dumps(rows, indent=None if spell == "one line" else 2)
    data = {"bom": "\ufeff" + text, "crlf": text.replace("\n", "\r\n")}.get(spell, text)
    (path := tmp_path / "rows.json").write_bytes(data.encode())
    assert [one.answer for one in read_samples(path)] == ["one two", "three four"]
    path.write_bytes(data.replace('"three four"', "3").encode())
    with pytest.raises(TaskError, match=f"^{path}: row 2: text is a JSON int"):
        read_samples(path)
    path.write_bytes(data[:-4].encode())
    with pytest.raises(TaskError, match=f"^{path}: not valid JSON .*line"):
        read_samples(path)


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_row(tmp_path):
    (path := tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a b"}\r\n\r\n{"text": "c d"}\r\n')
    assert [one.answer for one in read_samples(path)] == ["a b", "c d"]
    path.write_bytes('{"text": "a b"}'.encode("utf-16"))
    with pytest.raises(TaskError, match="UTF-16 text; save it as UTF-8"):
        read_samples(path)


RENDERED = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("row", "same"),
    [
        ({"text": RENDERED + "hi<|im_end|>\n"}, RENDERED + "hi<|im_end|>"),
        ({"text": RENDERED + "hi<|im_end|><|endoftext|>"}, RENDERED + "hi<|im_end|>"),
        ({"text": RENDERED + "hi"}, RENDERED + "hi<|endoftext|>"),
        ({"text": "a <|endoftext|> b"}, "a <|endoftext|> b<|endoftext|>"),
        ({"prompt": RENDERED, "completion": "hi<|im_end|>\n"}, RENDERED + "hi<|im_end|>"),
        ({"prompt": RENDERED, "completion": "hi"}, RENDERED + "hi<|im_end|>"),
        ({"prompt": "Say hi.", "completion": "hi<|im_end|>"}, RENDERED + "hi<|im_end|>"),
    ],
    ids=str,
)
def test_the_marks_of_a_rendered_chat_are_control_tokens(tmp_path, pocket, row, same):
    _, tokenizer = pocket
    (text,) = encode_samples(read_samples(written(tmp_path, row)), tokenizer, 2048)
    assert [*text.prompt, *text.answer] == tokenizer.encode(same)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a <|mask|> b"}, "holds the mask token"),
        ({"prompt": RENDERED + "<|mask|>", "completion": "b"}, "holds the mask token"),
        ({"messages": [ASK | {"content": "<|im_start|>x"}, HI, ASK, HI]}, "the user's message begins with a special token"),
        ({"text": "<|im_end|>"}, "nothing before its end token"),
    ],
    ids=str,
)
def test_marks_that_cannot_be_learnt_name_file_and_line(tmp_path, pocket, row, message):
    path = written(tmp_path, row)
    with pytest.raises(TaskError, match=message) as caught:
        encode_samples(read_samples(path), pocket[1], 2048)
    assert str(caught.value).startswith(f"{path}:1: ")


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
        ({"messages": [{"role": "usr", "content": "x"}, HI]}, "role 'usr' is not known; did you mean 'user'?"),
        ({"messages": [{"role": "user", "content": ""}, HI]}, "content is empty"),
        ({"messages": [ASK, HI], "tools": [{"name": "search"}]}, "tools cannot be trained on"),
        ({"messages": [ASK, HI | {"tool_calls": [{"name": "x"}]}]}, "tool_calls cannot be trained on"),
        ({"messages": [ASK | {"content": [{"type": "image", "url": "x"}]}, HI]}, "content is a JSON list"),
        ({"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "x"}]}, "must be the assistant's"),
        ({"conversations": [{"from": "observation", "value": "x"}, {"from": "gpt", "value": "x"}]}, "'observation' is not"),
        ({"prompt": [ASK], "completion": "hi"}, "must both be texts, or both be lists"),
        ({"prompt": "a", "suffix": "c", "completion": "b"}, "suffix cannot be trained on"),
        ({"instruction": "x", "output": "y", "history": ["x"]}, "history must be a list of pairs"),
        ({"question": "x", "answer": "y"}, "rename question to prompt and answer to completion"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "rename chosen to completion"),
        ({"a": 1, "b": 2}, "it has a, b"),
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
    roles = [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]
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


def test_chats_encoded_together_are_what_each_is_alone_and_the_one_that_fails_is_named(tmp_path):
    system = {"messages": [{"role": "system", "content": "no"}, ASK, HI]}
    kinds = [
        {"prompt": "Say <|im_end|>", "completion": "a"},
        {"text": "b c"},
        system,
        {"prompt": "<|im_start|>", "completion": "d"},
    ]
    samples, tokenizer = read_samples(written(tmp_path, *kinds * (TOGETHER // 2))), load("pocket", lazy=True)[1]
    together = encode_samples(samples, tokenizer, 2048)
    for text, sample in list(zip(together, samples, strict=True))[-8:]:
        (alone,) = encode_samples([sample], tokenizer, 2048)
        assert (text.prompt.tolist(), text.answer.tolist()) == (alone.prompt.tolist(), alone.answer.tolist())
    tokenizer.chat_template = "{% if messages[0].content == 'no' %}{{ raise_exception('no') }}{% endif %}"
    with pytest.raises(CheckpointError, match=r":3: the checkpoint's chat template fails \(no\)"):
        encode_samples(samples, tokenizer, 2048)


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"PAR1", "a Parquet file; save"),
        (b"ARROW1", "an Arrow"),
        (b"PK\x03\x04", "a zip"),
        (b"version https://git-lfs", "LFS"),
        (b"<!", "web"),
    ],
)
def test_what_people_give_in_place_of_rows_is_named(tmp_path, begin, said):
    (path := tmp_path / "rows.jsonl").write_bytes(begin + b"x")
    with pytest.raises(TaskError, match=f"rows.jsonl: .*{said}"):
        read_samples(path)
