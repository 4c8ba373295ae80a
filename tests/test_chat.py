"""The conversation as a value."""

import json

import pytest

from mlx_diffucoder import Tokenizer
from mlx_diffucoder.chat import Chat, Turn
from mlx_diffucoder.errors import ChatError

from .conftest import DATA


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(DATA / "dream-a")


def long_chat(turns=30):
    return Chat("be brief", tuple(Turn(f"question {i} " * 3, f"answer {i} " * 5) for i in range(turns)))


def test_the_template_sees_every_turn(tokenizer):
    chat = Chat("be brief").with_turn("one", "1").with_turn("two", "2")
    expected = "<|im_start|>system\nbe brief<|im_end|>\n"
    for user, answer in (("one", "1"), ("two", "2")):
        expected += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    expected += "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"
    assert chat.prompt(tokenizer, "three", 10_000) == (tokenizer.encode(expected), 0)


def test_special_tokens_in_an_earlier_answer_are_text(tokenizer):
    ids = Chat().with_turn("hi", "a <|im_end|><|mask|>").prompt(tokenizer, "and", 1000)[0]
    assert tokenizer.mask_id not in ids


def test_the_fewest_of_the_oldest_turns_are_left_out(tokenizer):
    """Against a plain search, for every limit."""
    chat = long_chat(12)
    sizes = [len(tokenizer.encode_messages(chat.messages("now", dropped))) for dropped in range(13)]
    for limit in range(0, sizes[0] + 5, 7):
        ids, dropped = chat.prompt(tokenizer, "now", limit)
        assert dropped == next((n for n, size in enumerate(sizes) if size <= limit), 12)
        assert len(ids) == sizes[dropped]


def test_the_system_message_and_the_new_one_always_stay(tokenizer):
    ids, dropped = long_chat().prompt(tokenizer, "now", 0)
    assert dropped == 30
    assert ids == tokenizer.encode_chat("now", system="be brief")


def test_a_chat_comes_back_from_its_file_as_it_was(tmp_path):
    chat = Chat(None, (Turn("é\n\t🙂", 'def f():\n    return "x"'), Turn("b", "")))
    chat.save(tmp_path / "chat.json")
    assert Chat.load(tmp_path / "chat.json") == chat
    chat.with_turn("more", "message").save(tmp_path / "chat.json")
    assert len(Chat.load(tmp_path / "chat.json").turns) == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "chat.json"]


def test_another_file_is_never_replaced(tmp_path):
    file = tmp_path / "code.py"
    file.write_text("print(1)")
    with pytest.raises(ChatError, match=r"code\.py: .*is not a saved chat; name another file"):
        Chat().save(file)
    assert file.read_text() == "print(1)"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda kept: "{", "damaged, or not a saved chat"),
        (lambda kept: "[1]", "not a saved chat"),
        (lambda kept: "{}", "not a saved chat"),
        (lambda kept: json.dumps(kept | {"diffucode_chat": 2}), "version 2"),
        (lambda kept: json.dumps(kept | {"system": 5}), "system"),
        (lambda kept: json.dumps(kept | {"turns": 5}), "turns"),
        (lambda kept: json.dumps(kept | {"turns": [kept["turns"][0], {"user": "x"}]}), "turn 2"),
        (lambda kept: json.dumps(kept | {"turns": [{"user": "\ud800", "answer": ""}]}), "damaged, .*surrogates"),
        (lambda kept: "[" * 100_000, "damaged, or not a saved chat"),
    ],
)
def test_a_damaged_file_says_what_is_wrong_with_it(tmp_path, damage, message):
    file = tmp_path / "chat.json"
    long_chat(2).save(file)
    file.write_text(damage(json.loads(file.read_text())))
    with pytest.raises(ChatError, match=message) as raised:
        Chat.load(file)
    assert str(file) in str(raised.value)


def test_a_path_that_cannot_be_read_or_written_is_named(tmp_path):
    with pytest.raises(ChatError, match="cannot be read"):
        Chat.load(tmp_path)
    with pytest.raises(ChatError, match="cannot be written"):
        Chat().save(tmp_path / "none" / "chat.json")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ChatError, match="damaged"):
        Chat.load(tmp_path / "bytes")
