"""`diffucode compare`, as a process."""

import json
import os
import pty
import shutil
import signal
import subprocess
import time

import pytest

from mlx_diffucoder.convert import ConvertConfig, convert

from ..conftest import DATA
from ..evaluation.programs import FUNCTIONS
from .command import COMMAND, assert_one_line, diffucode, environment


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    """`dream-a` unchanged, in 8 and in 2 bits."""
    folder = tmp_path_factory.mktemp("conversions")
    for name, bits in (("same", None), ("8-bit", 8), ("2-bit", 2)):
        quantized = {"quantize": True, "q_bits": bits, "q_group_size": 32} if bits else {}
        convert(DATA / "dream-a", folder / name, ConvertConfig(**quantized))
    return folder


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"prompt": "Say it.", "completion": "def f(x):\n    return x + 1\n"}, {"text": "for x in range(10):\n    print(x)\n"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*args):
    return diffucode("compare", DATA / "dream-a", *args)


def test_json_holds_every_measure_of_every_checkpoint(conversions, texts):
    names = [str(conversions / name) for name in ("same", "8-bit", "2-bit")]
    done = run(*names, "--texts", texts, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["text_count"] == 2
    assert report["canvases"] == 10  # three pairs of masks, of which one masks all and nothing
    assert report["base"].keys() == {"model", "bytes", "bits_per_weight", "perplexity"}
    assert [one["model"] for one in report["checkpoints"]] == names
    same, eight, two = report["checkpoints"]
    measures = {"canvases", "positions", "kl", "top1", "order", "first", "perplexity", "other_perplexity"}
    measures |= {"kl_interval", "top1_interval", "order_interval"}
    assert measures | {"model", "bytes", "bits_per_weight", "by_ratio"} == two.keys()
    assert two["by_ratio"].keys() == {"0.25", "0.5", "0.75", "1"}
    assert all(one.keys() == measures for one in two["by_ratio"].values())
    # Each pair masks each token once.
    assert two["positions"] == 3 * report["answer_tokens"]
    assert two["by_ratio"]["1"]["positions"] == two["by_ratio"]["0.5"]["positions"] == report["answer_tokens"]
    assert (same["kl"], same["top1"], same["order"], same["first"]) == (0, 1, 1, 1)
    assert 0 < eight["kl"] < two["kl"]
    assert same["bits_per_weight"] == 32
    assert 10 < eight["bits_per_weight"] < 10.1  # with a float32 scale and bias for 32 of them
    assert two["bytes"] == (conversions / "2-bit" / "model.safetensors").stat().st_size
    assert {"seed", "draws", "dtype", "by_layer", "texts", "peak_memory_bytes", "peak_resident_bytes"} <= report.keys()


def test_layer_by_layer_prints_the_same_numbers(conversions, texts):
    args = (conversions / "2-bit", "--texts", texts, "--draws", 2, "--seed", 5, "--dtype", "float32", "--json")
    whole, by_layer = (json.loads(run(*args, how).stdout) for how in ("--whole", "--by-layer"))
    assert (whole.pop("by_layer"), by_layer.pop("by_layer")) == (False, True)
    for report in (whole, by_layer):
        del report["peak_memory_bytes"], report["peak_resident_bytes"]
    assert whole == by_layer


def test_without_json_they_are_tables(conversions, texts):
    done = run(conversions / "8-bit", conversions / "2-bit", "--texts", texts, "--ratio", "0.25")
    assert done.returncode == 0, done.stderr
    for words in ("dream-a", "8-bit", "2-bit", "the base", "KL", "25 %", "75 %", "2 texts", "4 canvases", "order"):
        assert words in done.stdout, words
    assert "50 %" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_with_tasks_there_is_pass_at_1_in_every_width(conversions):
    args = ("--texts", FUNCTIONS, "--limit", "1", "--tasks", FUNCTIONS, "--allow-code-execution", "--max-tokens", "2")
    assert "pass@1" in diffucode("compare", DATA / "dream-a", conversions / "2-bit", *args, env={"COLUMNS": "40"}).stdout
    report = json.loads(run(conversions / "2-bit", *args, "--json").stdout)
    assert (report["base"]["pass@1"], report["checkpoints"][0]["pass@1"]) == (0, 0)
    assert report["config"]["max_tokens"] == 2


def test_a_picture_is_drawn_of_all(conversions, texts, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(*sorted(conversions.iterdir()), "--texts", texts, "--picture", tmp_path / "quality.svg")
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "quality.svg").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"quality.svg", "texts.jsonl"}


def test_without_texts_the_bundled_ones_are_taken(conversions):
    report = json.loads(run(conversions / "2-bit", "--limit", "2", "--json").stdout)
    assert (report["texts"], report["text_count"]) == ("bundled", 2)


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        ([], "others", 2),
        (["{2-bit}", "--ratio", "0"], "--ratio must be from 0.001 to 1, not 0", 2),
        (["{2-bit}", "--ratio", "1.5"], "--ratio", 2),
        (["{2-bit}", "--draws", "0"], "--draws", 2),
        (["{2-bit}", "--limit", "0"], "--limit", 2),
        (["{2-bit}", "--dtype", "int8"], "--dtype", 2),
        (["{2-bit}", "--preset", "best"], "--preset", 2),
        (["{2-bit}", "--tasks", FUNCTIONS], "--allow-code-execution", 2),
        (["{2-bit}", "--tasks", FUNCTIONS, "--allow-code-execution", "--by-layer"], "--by-layer", 2),
        (["{2-bit}", "--picture", "/nowhere/q.png"], "/nowhere/q.png: cannot be written", 1),
        (["{2-bit}", "--picture", "q.txt"], "must end in .png", 2),
        (["{2-bit}", "--texts", "/nowhere.jsonl"], "/nowhere.jsonl: cannot be read", 1),
        (["/nowhere"], "/nowhere: no such folder", 1),
        ([DATA], "config.json", 1),
        ([FUNCTIONS], "functions.jsonl: not a folder", 1),
        ([DATA / "." / "dream-a"], "is the same folder as", 1),
        (["{2-bit}", "{2-bit}"], "is the same folder as", 1),
    ],
    ids=lambda value: " ".join(str(word) for word in value)[-40:] if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_one_line(conversions, args, said, code):
    args = [str(arg).replace("{2-bit}", str(conversions / "2-bit")) for arg in args]
    assert_one_line(run(*args), said, code=code)


def test_a_broken_text_names_its_line_and_a_long_one_the_context(conversions, texts, broken, edit_json):
    text = texts.read_text()
    texts.write_text(text + "{broken\n")
    assert_one_line(run(conversions / "2-bit", "--texts", texts), f"{texts}:3: not valid JSON")
    texts.write_text(text)
    edit_json(broken / "config.json", max_position_embeddings=20)
    assert_one_line(run(broken, "--texts", texts), f"{texts}:1: is ", "tokens long, but the model's context is 20")


def test_another_vocabulary_is_refused(broken, edit_json):
    vocabulary = json.loads((broken / "vocab.json").read_text())
    left, right = list(vocabulary)[40:42]
    edit_json(broken / "vocab.json", **{left: vocabulary[right], right: vocabulary[left]})
    assert_one_line(run(broken), f"{broken}: cannot be compared with", "their tokenizers differ", f"'{left}' as")


def test_another_mask_token_is_refused(broken, edit_json):
    other = json.loads((broken / "vocab.json").read_text())
    edit_json(broken / "config.json", mask_token_id=3)
    edit_json(broken / "tokenizer_config.json", mask_token=next(text for text, id in other.items() if id == 3))
    assert_one_line(run(broken), "the mask token is", "and 3 in the other")


def test_damaged_weights_are_named(conversions, texts, broken):
    import mlx.core as mx

    file = broken / "model-00001-of-00002.safetensors"
    weights = mx.load(str(file))
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = mx.full(weights[name].shape, float("nan"))
    mx.save_safetensors(str(file), weights)
    done = diffucode("compare", conversions / "same", broken, "--texts", texts)
    assert_one_line(done, f"{broken}: the model's output is not a number")
    done = diffucode("compare", broken, conversions / "same", "--texts", texts)
    assert_one_line(done, f"{broken}: the model's output is not a number")


def test_without_matplotlib_the_picture_is_refused_at_once(conversions, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError\n")
    done = diffucode("compare", "a", "b", "--picture", tmp_path / "q.png", env={"PYTHONPATH": str(tmp_path)})
    assert_one_line(done, "mlx-diffucoder[bench]")


def test_ctrl_c_exits_130_and_leaves_nothing(conversions, tmp_path):
    pytest.importorskip("matplotlib")
    shutil.copytree(conversions / "same", tmp_path / "copy")
    command = [COMMAND, "compare", DATA / "dream-a", tmp_path / "copy", "--draws", "500", "--picture", tmp_path / "q.png"]
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=environment())
    os.close(slave)
    seen, deadline = b"", time.monotonic() + 60
    while b"comparing" not in seen and time.monotonic() < deadline:  # the bar, on a terminal's stderr
        seen += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 130
    assert stdout == b""
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
