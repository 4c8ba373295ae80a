import json
import shutil
import time

import pytest
import tokenizers

from mlx_diffucoder import Tokenizer
from mlx_diffucoder.errors import CheckpointError, ConfigError, PromptError

from .conftest import DATA


def test_ids_equal_the_slow_reference_tokenizers_on_every_line(checkpoint):
    tokenizer = Tokenizer.load(checkpoint)
    lines = [json.loads(line) for line in (checkpoint / "reference_tokens.jsonl").read_text().splitlines()]
    assert len(lines) > 100
    for line in lines:
        assert tokenizer.encode(line["text"]) == line["ids"], line["text"]


def test_tokenizer_json_gives_the_same_ids_as_the_files_it_was_built_from(checkpoint, tmp_path):
    built = Tokenizer.load(checkpoint)
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    built.save(tmp_path)
    read = Tokenizer.load(tmp_path)
    for line in map(json.loads, (checkpoint / "reference_tokens.jsonl").read_text().splitlines()):
        assert read.encode(line["text"]) == line["ids"]
    assert (read.end_ids, read.mask_id, read.pad_id) == (built.end_ids, built.mask_id, built.pad_id)
    assert read.encode_chat("hi <|im_end|>") == built.encode_chat("hi <|im_end|>")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(DATA / "dream-a")


def test_special_ids_come_from_the_checkpoint(tokenizer):
    assert (tokenizer.mask_id, tokenizer.pad_id) == (757, 758)
    assert tokenizer.end_ids == {753, 755, 758}  # endoftext, im_end, dlm_pad
    assert tokenizer.known_ids.max() == 758


def test_special_tokens_in_a_message_are_text(tokenizer):
    ids = tokenizer.encode_chat("say <|im_end|> and <|mask|>")
    assert tokenizer.mask_id not in ids
    plain = tokenizer.encode_chat("say nothing")
    specials = [token for token in plain if token >= 753]
    assert [token for token in ids if token >= 753] == specials  # the template's own, no more
    assert "say <|im_end|> and <|mask|>" in tokenizer.decode(ids)


def test_a_number_between_special_tokens_of_a_message_is_a_number(tokenizer):
    for text in ("<|im_end|>0<|im_end|>", "<|im_end|>1<|mask|>0<|endoftext|>"):
        assert f"user\n{text}\n" in tokenizer.decode(tokenizer.encode_chat(text))


def test_special_tokens_act_as_such_in_raw_text(tokenizer):
    assert tokenizer.encode("a<|mask|>")[-1] == tokenizer.mask_id


def test_a_message_without_special_tokens_is_encoded_as_one_with_its_template(tokenizer):
    text = "def f(x):\n\n   return x"
    assert tokenizer.encode_chat(text) == tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")


def test_system_message_reaches_the_template(tokenizer):
    assert tokenizer.encode_chat("hi", system="be brief") == tokenizer.encode(
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_half_a_surrogate_pair_is_refused(tokenizer):
    for encode in (tokenizer.encode, tokenizer.encode_chat):
        with pytest.raises(PromptError, match="not valid Unicode"):
            encode("a\udcff")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tokenizer_config.json", {"eos_token": "\ud800"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "a\udfff"}}}),
        ("generation_config.json", {"note": ["\ud800"]}),
        ("special_tokens_map.json", {"eos_token": {"content": "\ud800"}}),
        ("added_tokens.json", {"\ud800": 9}),
    ],
)
def test_half_a_surrogate_pair_in_a_file_is_named(broken, edit_json, name, changes):
    if not (broken / name).exists():
        (broken / name).write_text("{}")
    edit_json(broken / name, **changes)
    with pytest.raises(CheckpointError, match=rf"{name}: holds half of a Unicode surrogate pair"):
        Tokenizer.load(broken)


def test_chat_template_runs_in_a_sandbox(broken, edit_json):
    edit_json(broken / "tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(CheckpointError, match="chat template fails"):
        Tokenizer.load(broken).encode_chat("hi")


def test_a_template_file_goes_before_the_configuration(broken):
    (broken / "chat_template.jinja").write_text("Q: {{ messages[-1].content }}\nA:")
    tokenizer = Tokenizer.load(broken)
    assert tokenizer.encode_chat("hi") == tokenizer.encode("Q: hi\nA:")


def test_no_template_says_to_use_raw(broken, edit_json):
    edit_json(broken / "tokenizer_config.json", chat_template=None)
    with pytest.raises(CheckpointError, match="--raw"):
        Tokenizer.load(broken).encode_chat("hi")


def test_added_tokens_json_serves_where_the_configuration_has_no_decoder(broken, edit_json):
    added = {
        token["content"]: int(id)
        for id, token in json.loads((broken / "tokenizer_config.json").read_text())["added_tokens_decoder"].items()
    }
    (broken / "added_tokens.json").write_text(json.dumps(added))
    edit_json(broken / "tokenizer_config.json", added_tokens_decoder=None)
    assert Tokenizer.load(broken).encode("<|mask|>") == [757]


@pytest.mark.parametrize("kept", [0, 300])
def test_a_list_of_merges_whose_end_is_missing_is_refused(broken, kept):
    lines = (broken / "merges.txt").read_text().splitlines(keepends=True)
    (broken / "merges.txt").write_text("".join(lines[: kept + 1]))  # the first line names a version
    with pytest.raises(CheckpointError, match=rf"merges.txt: has {kept} merges, and the tokens of vocab.json need 497"):
        Tokenizer.load(broken)


def test_missing_mask_token_is_named(broken, edit_json):
    edit_json(broken / "config.json", mask_token_id=None)
    with pytest.raises(ConfigError, match="mask_token_id"):
        Tokenizer.load(broken)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_vocabulary_is_named(broken, name):
    (broken / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Tokenizer.load(broken)


def test_truncation_and_padding_of_a_tokenizer_json_are_not_for_us(broken):
    Tokenizer.load(broken).save(broken)
    fast = tokenizers.Tokenizer.from_file(str(broken / "tokenizer.json"))
    fast.enable_truncation(4)
    fast.enable_padding(length=10)
    fast.save(str(broken / "tokenizer.json"))
    assert len(Tokenizer.load(broken).encode("one two three four five six")) > 10
    assert len(Tokenizer.load(broken).encode("a")) == 1


@pytest.mark.parametrize("template", ["{{ messages + 5 }}", "{{ 1 / 0 }}", "{{ messages[9].content.x }}", "{% for %}"])
def test_a_template_that_fails_is_one_line(broken, edit_json, template):
    edit_json(broken / "tokenizer_config.json", chat_template=template)
    with pytest.raises(CheckpointError, match="chat template fails"):
        Tokenizer.load(broken).encode_chat("hi")


@pytest.mark.parametrize("template", [5, {"a": "b"}])
def test_a_template_that_is_no_text_is_named(broken, edit_json, template):
    edit_json(broken / "tokenizer_config.json", chat_template=template)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template"):
        Tokenizer.load(broken)


@pytest.mark.parametrize("added", [[1], {"x": {"content": "a"}}, {"753": {}}, {"753": "<|endoftext|>"}, {"753": {"content": 5}}])
def test_odd_added_tokens_are_named(broken, edit_json, added):
    edit_json(broken / "tokenizer_config.json", added_tokens_decoder=added)
    with pytest.raises(CheckpointError, match="added_tokens_decoder"):
        Tokenizer.load(broken)


def test_flags_of_an_added_token_that_are_neither_true_nor_false_are_named(broken, edit_json):
    decoder = json.loads((broken / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    decoder["757"]["lstrip"] = "false"
    edit_json(broken / "tokenizer_config.json", added_tokens_decoder=decoder)
    with pytest.raises(CheckpointError, match="added_tokens_decoder cannot be read"):
        Tokenizer.load(broken)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"mask_token_id": 0}, r"mask_token_id is 0, but mask_token of the tokenizer, <\|mask\|>, is 757"),
        ("tokenizer_config.json", {"mask_token": {"content": "<|im_end|>"}}, r"mask_token_id is 757, but .* is 755"),
        ("tokenizer_config.json", {"added_tokens_decoder": {}}, r"mask_token_id 757 is no token of the tokenizer"),
    ],
)
def test_a_mask_that_the_tokenizer_contradicts_or_lacks_is_refused(broken, edit_json, name, changes, message):
    edit_json(broken / name, **changes)
    with pytest.raises(ConfigError, match=rf"config\.json: {message}"):
        Tokenizer.load(broken)


def test_damaged_tokenizer_json_is_named(broken):
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(broken)


def test_an_added_token_at_another_id_than_stated_is_refused(broken, edit_json):
    decoder = json.loads((broken / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    decoder["900"] = decoder.pop("758")
    edit_json(broken / "tokenizer_config.json", added_tokens_decoder=decoder)
    with pytest.raises(CheckpointError, match=r"dlm_pad.*900"):
        Tokenizer.load(broken)


CODE = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize("text", [CODE, " ", "a", "é", "<|mask|>"])
def test_a_text_far_too_long_is_refused_before_it_is_encoded(tokenizer, text):
    """50 MB take minutes and gigabytes to encode."""
    whole, started = (text * (50_000_000 // len(text) + 1))[:50_000_000], time.process_time()
    with pytest.raises(PromptError, match=r"50000000 characters are more than the 2048 tokens"):
        tokenizer.check_length(whole, 2048)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("text", [CODE, " ", "a\n", "Ж", "supercalifragilistic ", "<|mask|>"])
@pytest.mark.parametrize("limit", [1, 10, 300])
def test_a_text_that_fits_is_never_refused(tokenizer, text, limit):
    whole = text * (128 * limit)
    for length in range(1, len(whole), max(1, limit // 3)):
        if len(tokenizer.encode_plain(whole[:length])) > limit:
            break
        tokenizer.check_length(whole[:length], limit)


def test_a_pointer_in_place_of_a_chat_template_is_named(tmp_path):
    shutil.copytree(DATA / "dream-b", tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: a Git LFS pointer"):
        Tokenizer.load(tmp_path / "m")


def test_a_panic_of_the_library_is_a_damaged_file(monkeypatch):
    class PanicException(BaseException):
        pass

    def panics(*files):
        raise PanicException("range end index 22 out of range")

    monkeypatch.setattr("tokenizers.models.BPE.from_file", panics)
    with pytest.raises(CheckpointError, match=r"do not make a tokenizer \(range end"):
        Tokenizer.load(DATA / "dream-b")
