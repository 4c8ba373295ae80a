"""One model computed by several processes."""

import json
import os
import signal
import sys
import time

import httpx
import pytest

from mlx_diffucoder import load

from .cli.command import assert_one_line, diffucode
from .ranks import COMMAND, ended, start, synthetic

ASK = "Write f(s): return s reversed."
LOGITS = """
import json, sys, time
import mlx.core as mx, numpy as np
from pathlib import Path
from mlx.utils import tree_flatten
from mlx_diffucoder.ranks import rank
from mlx_diffucoder.sharding import load_following, load_leading
from mlx_diffucoder.models.sharded import SharedModel, follow
folder, dtype, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
plain, found = SharedModel.logits, []
def logits(self, *args):
    found.append(plain(self, *args))
    np.save(out / f"{rank()}.npy", np.array(found[-1].astype(mx.float32)))
    return found[-1]
SharedModel.logits = logits
if rank():
    follow(load_following(folder), [])
mx.random.seed(1)
model, _ = load_leading("it", folder, dtype, check_memory=True)
mx.eval(model(mx.arange(40)[None]))
print(json.dumps([mx.get_peak_memory(), sum(one.nbytes for _, one in tree_flatten(model.parameters()))]))
while len(list(out.glob("*.npy"))) < model.link.size:
    time.sleep(0.01)
time.sleep(0.1)
"""


def generate(*args):
    return [*COMMAND, "generate", "--shard", "tensor", "--dtype", "float32", *args]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A checkpoint with 4 K/V heads, and weights that take much more memory than its forwards."""
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 512, "intermediate_size": 1536}
    return synthetic(tmp_path_factory.mktemp("four") / "model", **shape, tie_word_embeddings=False)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["-n", "2", "--temp", "0.8", "--seed", "1"]])
def test_two_processes_write_the_text_of_one_and_only_rank_0_prints(tmp_path, more):
    asked = [ASK, "-m", "pocket", "--json", *more]
    first, second = ended(start(tmp_path, 2, generate(*asked)))
    (alone,) = ended(start(tmp_path, 1, [word for word in generate(*asked) if word not in ("--shard", "tensor")]))
    assert (first[0], second) == (0, (0, "", "")), first
    timed = ("seconds", "useful_tokens_per_second", "peak_memory_bytes")
    results = [json.loads(out) for _, out, _ in (first, alone)]
    assert results[0]["config"] == results[1]["config"]
    same = [{key: one[key] for key in one if key not in timed and not key.startswith("sec")} for one in results]
    assert same[0].get("text") == same[1].get("text") and same[0]["nfe"] == same[1]["nfe"]
    assert [one["text"] for one in same[0].get("answers", [])] == [one["text"] for one in same[1].get("answers", [])]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dtype", "bits"), [(2, "float32", 0), (4, "bfloat16", 0), (4, "float32", 4)])
def test_logits_are_equal_on_all_ranks_and_those_of_one_process(tmp_path, four, count, dtype, bits):
    import mlx.core as mx
    import numpy as np

    from mlx_diffucoder.convert import ConvertConfig, convert

    folder = four
    if bits:
        folder = tmp_path / "quantized"
        convert(four, folder, ConvertConfig(quantize=True, q_bits=bits))
    outcomes = ended(start(tmp_path, count, [sys.executable, "-c", LOGITS, folder, dtype, tmp_path]))
    assert [code for code, _, _ in outcomes] == [0] * count, outcomes
    peak, own = json.loads(outcomes[0][1])
    whole = sum(one.stat().st_size for one in folder.glob("*.safetensors"))
    assert own <= 1.1 * whole * (2 if bits and dtype == "float32" else 1) / count
    assert peak <= 1.1 * max(own, whole / count) + 2**21  # the states of 40 tokens
    logits = [np.load(tmp_path / f"{rank}.npy") for rank in range(count)]
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
    ("number", "victim", "seconds", "line"),
    [
        (signal.SIGKILL, 1, 2, "rank 1 (127.0.0.1) was lost: its process has ended, or the link to it is down"),
        (signal.SIGKILL, 0, 2, "rank 0 (127.0.0.1) was lost: its process has ended, or the link to it is down"),
        (signal.SIGSTOP, 2, 10, "rank 2 (127.0.0.1) does not answer: stopped, or a step that takes too long"),
    ],
)
def test_a_peer_that_is_lost_or_stopped_ends_all_with_one_line_that_names_it(tmp_path, four, number, victim, seconds, line):
    processes = start(tmp_path, 4, [sys.executable, "-c", ENDLESS, *generate(ASK, "-m", four)[3:]])
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


VERSION = """
import sys
from mlx_diffucoder import link, ranks, sharding
link.START = 3
sharding.__version__ += ".post1" * (ranks.rank() == 1)
from mlx_diffucoder.cli import main
sys.argv = ["diffucode", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "ranks", "model", "line"),
    [
        (3, None, "four", "--shard tensor: 3 processes do not divide num_key_value_heads 4; start 2 or 4 of them"),
        (2, [0], "pocket", "rank 1 (127.0.0.1) did not start within 3 s; can it be reached from here?"),
        (2, None, "pocket", "rank 1 (127.0.0.1): the version of mlx_diffucoder is"),
    ],
)
def test_what_cannot_begin_is_one_line_from_rank_0(tmp_path, four, count, ranks, model, line):
    command = [sys.executable, "-c", VERSION, *generate(ASK, "-m", four if model == "four" else model)[3:]]
    outcomes = ended(start(tmp_path, count, command, ranks=ranks))
    assert all(code for code, _, _ in outcomes)
    errors = "".join(err for _, _, err in outcomes)
    assert errors.count("\n") == 1 and errors.startswith(f"diffucode: {line}"), errors


def test_shard_alone_says_how_to_start_several_processes():
    done = diffucode("generate", "--shard", "tensor", "-m", "pocket", ASK)
    assert_one_line(done, "--shard", "mlx.launch --hostfile", code=2)
