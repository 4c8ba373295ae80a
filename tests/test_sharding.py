"""One model computed by several processes."""

import json
import os
import signal
import sys
import time
from dataclasses import replace

import httpx
import pytest
from mlx.utils import tree_flatten

from mlx_diffucoder import load
from mlx_diffucoder.checkpoint import weights_digest
from mlx_diffucoder.errors import ConfigError, RankError
from mlx_diffucoder.loading import local_folder
from mlx_diffucoder.memory import bytes_of
from mlx_diffucoder.models.sharded import axis_of
from mlx_diffucoder.ranks import Launch
from mlx_diffucoder.sharding import Plan

from . import ranks
from .cli.command import assert_one_line, diffucode
from .ranks import COMMAND, ended, hosts, start, synthetic
from .training.test_adapters import trained

ASK = "Write f(s): return s reversed."
LOGITS = """
import json, sys, time
import mlx.core as mx, numpy as np
from pathlib import Path
from mlx.utils import tree_flatten
from mlx_diffucoder.ranks import rank
from mlx_diffucoder.sharding import Plan, load_following, load_leading
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.models.sharded import follow
plan, dtype, out = Plan(Path(sys.argv[1]), sys.argv[4]), sys.argv[2], Path(sys.argv[3])
plain, found = DiffusionModel.logits, []
def logits(self, *args):
    found.append(plain(self, *args))
    np.save(out / f"{rank()}.npy", np.array(found[-1].astype(mx.float32)))
    return found[-1]
DiffusionModel.logits = logits
if rank():
    follow(load_following(lambda: plan), [])
mx.random.seed(1)
model, _ = load_leading("it", plan, dtype, check_memory=True)
mx.eval(model(mx.arange(40)[None]))
print(json.dumps([mx.get_peak_memory(), sum(one.nbytes for _, one in tree_flatten(model.parameters()))]))
while plan.shard == "tensor" and len(list(out.glob("*.npy"))) < model.link.size:
    time.sleep(0.01)
time.sleep(0.1)
"""


WINDOWS = """
import json, sys
from pathlib import Path
from mlx_diffucoder import GenerationConfig, load
from mlx_diffucoder.decoding.windows.cache import AppendedKVCache
from mlx_diffucoder.generation import generate_batch
from mlx_diffucoder.infilling.fill import fill
from mlx_diffucoder.loading import local_folder
from mlx_diffucoder.models.sharded import follow
from mlx_diffucoder.ranks import rank
from mlx_diffucoder.sharding import Plan, load_following, load_leading
plan = Plan(local_folder("pocket"), sys.argv[1], Path(sys.argv[2]))
if rank():
    follow(load_following(lambda: plan), [AppendedKVCache])
shared, tokenizer = load_leading("it", plan, "float32", check_memory=True)
plain, _ = load("pocket", dtype="float32", adapter=plan.adapter)
asked = ["Write f(s): return s reversed.", "Implement process(k): return whether k is a prime number. " * 3]
text = ["# Adds numbers.\\ndef add(a, b):\\n    ", None, "\\n\\n\\nprint(add(1, 2))\\nprint(add(3, 4))\\n"]
for window in ("sliding", "tree"):
    config, hole = (GenerationConfig(rule="threshold", window=window, max_tokens=most) for most in (12, 8))
    one, all = ([generate_batch(model, tokenizer, asked, config), fill(model, tokenizer, text, hole, tries=2).holes]
                for model in (plain, shared))
    print(json.dumps([one, all]))
"""


def generate(*args, shard="tensor"):
    return [*COMMAND, "generate", "--shard", shard, "--dtype", "float32", *args]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A checkpoint with 4 K/V heads, and weights that take much more memory than its forwards."""
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 512, "intermediate_size": 1536}
    return synthetic(tmp_path_factory.mktemp("four") / "model", **shape, tie_word_embeddings=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "more"), [("tensor", []), ("tensor", ["-n", "2", "--temp", "0.8", "--seed", "1"]), ("sequence", [])]
)
def test_two_processes_write_the_text_of_one_and_only_rank_0_prints(tmp_path, shard, more):
    asked = [ASK, "-m", "pocket", "--json", *more]
    first, second = ended(start(tmp_path, 2, generate(*asked, shard=shard)))
    (alone,) = ended(start(tmp_path, 1, [word for word in generate(*asked) if word not in ("--shard", "tensor")]))
    assert (first[0], second) == (0, (0, "", "")), first
    timed = ("seconds", "useful_tokens_per_second", "peak_memory_bytes")
    results = [json.loads(out) for _, out, _ in (first, alone)]
    assert results[0]["config"] == results[1]["config"]
    same = [{key: one[key] for key in one if key not in timed and not key.startswith("sec")} for one in results]
    assert same[0].get("text") == same[1].get("text") and same[0]["nfe"] == same[1]["nfe"]
    assert [one["text"] for one in same[0].get("answers", [])] == [one["text"] for one in same[1].get("answers", [])]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "shard", "gated"), [(2, "tensor", False), (3, "sequence", True)])
def test_windows_holes_and_adapters_give_the_texts_of_one_process(tmp_path, count, shard, gated):
    trained(local_folder("pocket"), tmp_path / "adapter", gated=gated)
    outcomes = ended(start(tmp_path, count, [sys.executable, "-c", WINDOWS, shard, tmp_path / "adapter"]), 180)
    assert [code for code, _, _ in outcomes] == [0] * count, outcomes
    texts = [json.loads(line) for line in outcomes[0][1].splitlines()]
    assert len(texts) == 2 and all(alone == together for alone, together in texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "dtype", "bits", "shard"),
    [
        (2, "float32", 0, "tensor"),
        (4, "bfloat16", 0, "tensor"),
        (4, "float32", 4, "tensor"),
        (2, "float32", 4, "sequence"),
    ],
)
def test_logits_are_equal_on_all_ranks_and_those_of_one_process(tmp_path, four, count, dtype, bits, shard):
    import mlx.core as mx
    import numpy as np

    from mlx_diffucoder.convert import ConvertConfig, convert

    folder = four
    if bits:
        folder = tmp_path / "quantized"
        convert(four, folder, ConvertConfig(quantize=True, q_bits=bits))
    outcomes = ended(start(tmp_path, count, [sys.executable, "-c", LOGITS, folder, dtype, tmp_path, shard]))
    assert [code for code, _, _ in outcomes] == [0] * count, outcomes
    peak, own = json.loads(outcomes[0][1])
    whole = sum(one.stat().st_size for one in folder.glob("*.safetensors"))
    parts = count if shard == "tensor" else 1
    assert own <= 1.1 * whole * (2 if bits and dtype == "float32" else 1) / parts
    assert peak <= 1.1 * max(own, whole / parts) + 2**21  # the states of 40 tokens
    logits = [np.load(tmp_path / f"{rank}.npy") for rank in range(parts)]
    assert all((one == logits[0]).all() for one in logits)
    model, _ = load(folder, dtype=dtype)
    alone = np.array(model(mx.arange(40)[None]).astype(mx.float32))
    rounding = {"float32": 1e-5, "bfloat16": 2**-6}[dtype]
    assert np.abs(logits[0] - alone).max() <= rounding * np.abs(alone).max()


@pytest.mark.slow
def test_two_processes_serve_answers_and_holes_until_a_signal(tmp_path):
    serve = [*COMMAND, "serve", "--shard", "tensor", "-m", "pocket", "--dtype", "float32", "--port", "0"]
    first, _ = processes = start(tmp_path, 2, serve)
    try:
        url = first.stdout.readline().strip()
        while httpx.get(url + "/health").status_code != 200:
            time.sleep(0.05)
        alone = diffucode("generate", "-m", "pocket", "--dtype", "float32", ASK).stdout
        answers = []
        for path, asked in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": ASK}]}),
            *[("/infill", {"input_prefix": "def add(a, b):\n    ", "input_suffix": "\n", "n_predict": 12})] * 2,
        ):
            answers.append(httpx.post(url + path, json=asked, timeout=60).raise_for_status().json())
        assert answers[0]["choices"][0]["message"]["content"].strip() == alone.strip()
        assert answers[1]["content"] == answers[2]["content"] != ""
    finally:
        first.terminate()
        outcomes = ended(processes)
    assert [code for code, _, _ in outcomes] == [143, 0] and outcomes[1][1:] == ("", "")


@pytest.mark.slow
def test_bench_run_measures_several_processes_and_rank_0_writes(tmp_path):
    trained(local_folder("pocket"), tmp_path / "adapter")
    out, short = tmp_path / "out.json", ["--alone", "--trials", "1", "--widest", "8", "--max-tokens", "8", "--prompt", ASK]
    asked = ["bench", "run", "--shard", "tensor", "-m", "pocket", "--adapter", tmp_path / "adapter", "--dtype", "float32"]
    first, second = ended(start(tmp_path, 2, [*COMMAND, *asked, *short, "--out", out]), 120)
    assert (first[0], second) == (0, (0, "", "")), first
    report = json.loads(out.read_text())
    model, _ = load("pocket", adapter=tmp_path / "adapter", dtype="float32")
    assert report["model"]["weights"] == weights_digest(model)
    assert report["model"]["bytes"] == bytes_of(model.parameters())
    seconds = report["shard"].pop("exchange_seconds")
    assert report["shard"] == {"shard": "tensor", "ranks": 2, "exchanges": 15, "exchange_rows": 32} and 0 < seconds < 1
    assert "shard      tensor, 2 processes; a forward has 15 exchanges" in first[1]


# A command whose constants are shorter, and whose model is forwarded for ever.
ENDLESS = """
import sys
from mlx_diffucoder import link
link.START, link.STALLED = 20, 4
from mlx_diffucoder.cli import app, terminal
from mlx_diffucoder.run import Run
def steps(run):
    import mlx.core as mx
    print("ready", flush=True)
    while True:
        mx.eval(run.model(mx.arange(40)[None]))
        yield None
Run.steps = steps
def follow(run, **_):
    for _ in run.steps():
        pass
from mlx_diffucoder.cli import progress
progress.follow = follow
terminal.open_streams()
sys.argv = ["diffucode", *sys.argv[1:]]
sys.exit(app.run())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "number", "victim", "seconds", "line"),
    [
        ("sequence", signal.SIGKILL, 1, 2, "rank 1 (127.0.0.1) was lost: its process has ended, or the link to it is down"),
        ("tensor", signal.SIGKILL, 0, 2, "rank 0 (127.0.0.1) was lost: its process has ended, or the link to it is down"),
        ("tensor", signal.SIGSTOP, 2, 10, "rank 2 (127.0.0.1) does not answer: stopped, or a step that takes too long"),
    ],
)
def test_a_peer_that_is_lost_or_stopped_ends_all_with_a_line_that_names_it(tmp_path, four, shard, number, victim, seconds, line):
    command = [sys.executable, "-c", ENDLESS, *generate(ASK, "-m", four, shard=shard)[3:]]
    processes = start(tmp_path, 4, command)
    assert processes[0].stdout.readline() == "ready\n"
    time.sleep(1)
    os.kill(processes[victim].pid, number)
    begun = time.monotonic()
    left = [one for index, one in enumerate(processes) if index != victim]
    outcomes = ended(left)
    took = time.monotonic() - begun
    processes[victim].kill()
    assert "".join(err for _, _, err in outcomes) == f"diffucode: {line}\n"
    assert took < seconds and all(code == 1 for code, _, _ in outcomes)


STARTED = """
import sys
from mlx_diffucoder import link, ranks, sharding
from mlx_diffucoder.cli import main
link.START = 3
sys.argv = ["diffucode", *sys.argv[1:]]
if ranks.rank() == 1:
    exec(%r)
main()
"""
OTHER_MODEL = "sys.argv[sys.argv.index('-m') + 1] = '/dev/null/absent'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "started", "model", "differs", "line"),
    [
        (3, None, "four", "", "--shard tensor: 3 processes do not divide num_key_value_heads 4; start 2 or 4 of them, or use"),
        (2, [0], "pocket", "", "rank 1 (127.0.0.1) did not start within 3 s; can it be reached from here?"),
        (2, None, "pocket", "sharding.__version__ += '.post1'", "rank 1 (127.0.0.1): the version of mlx_diffucoder is"),
        (2, None, "pocket", "sharding._hash = str", "rank 1 (127.0.0.1): the hash of mlx_diffucoder's code is"),
        (2, None, "pocket", OTHER_MODEL, "rank 1 (127.0.0.1): /dev/null/absent: no such folder"),
    ],
)
def test_what_cannot_begin_is_one_line_from_rank_0(tmp_path, four, count, started, model, differs, line):
    command = [sys.executable, "-c", STARTED % differs, *generate(ASK, "-m", four if model == "four" else model)[3:]]
    outcomes = ended(start(tmp_path, count, command, ranks=started))
    assert all(code for code, _, _ in outcomes)
    errors = "".join(err for _, _, err in outcomes)
    assert errors.count("\n") == 1 and errors.startswith(f"diffucode: {line}"), errors


@pytest.mark.parametrize("gated", [False, True])
def test_a_weight_is_divided_along_one_axis_and_an_adapter_with_it(tmp_path, gated):
    plan = Plan(local_folder("pocket"), "tensor", tmp_path / "adapter")
    trained(plan.folder, plan.adapter, gated=gated)
    model, stored, _ = plan.open(2)
    assert weights_digest(model, stored) == weights_digest(model)
    axes = {name.removeprefix("model.layers.0."): axis_of(name) for name, _ in tree_flatten(model.parameters())}
    assert [axes[f"self_attn.q_proj.{one}"] for one in ("linear.weight", "linear.bias", "lora_a", "lora_b")] == [0, 0, None, 1]
    assert [axes[f"mlp.down_proj.{one}"] for one in ("linear.weight", "lora_a", "lora_b")] == [1, 0, None]
    assert axes["input_layernorm.weight"] is None


def test_a_dora_adapter_is_not_divided_and_says_what_to_do(tmp_path):
    plan = Plan(local_folder("pocket"), "tensor", tmp_path / "adapter")
    trained(plan.folder, plan.adapter, "dora")
    with pytest.raises(ConfigError, match=r"--shard tensor divides no DoRA adapter; .*diffucode fuse"):
        plan.open(2)
    replace(plan, shard="sequence").open(2)


@pytest.mark.slow
def test_addresses_that_mlx_cannot_use_are_one_line_and_not_a_hang(tmp_path, monkeypatch):
    def elsewhere(folder, count):
        file = hosts(folder, count)
        file.write_text(json.dumps([json.loads(file.read_text())[0], ["192.0.2.1:9"]]))
        return file

    monkeypatch.setattr(ranks, "hosts", elsewhere)
    outcomes = ended(start(tmp_path, 2, [sys.executable, "-c", STARTED % "", *generate(ASK, "-m", "pocket")[3:]]))
    assert all(code for code, _, _ in outcomes)
    line = "diffucode: MLX does not connect the processes; check the ips in the hostfile, and the firewalls\n"
    assert "".join(err for _, _, err in outcomes) == line


def test_shard_alone_says_how_to_start_several_processes():
    done = diffucode("generate", "--shard", "tensor", "-m", "pocket", ASK)
    assert_one_line(done, "--shard", "mlx.launch --hostfile", code=2)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "there is one process only; start two or more"),
        ('[["127.0.0.1:1"]]', "there is one process only; start two or more"),
        ("{", "not a list of hosts as mlx.launch writes it"),
        ('{"a": 1}', "not a list of hosts as mlx.launch writes it"),
        ('[["127.0.0.1:x"], ["127.0.0.1:1"]]', "not a list of hosts as mlx.launch writes it"),
    ],
)
def test_a_list_of_hosts_that_is_none_says_what_is_wrong(tmp_path, monkeypatch, text, line):
    (tmp_path / "hosts.json").write_text(text)
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts.json"))
    with pytest.raises(RankError, match=line):
        Launch.read()
