"""`diffucode generate`: as a process, and in this one where that makes no difference."""

import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from mlx_diffucoder.loading import DEFAULT_MODEL

from ..conftest import DATA
from ..hub import local_hub
from .command import COMMAND, assert_one_line, diffucode, environment

TINY = DATA / "dream-b"
SHORT = ("-m", TINY, "--max-tokens", "6")


def test_pocket_writes_a_function_that_works():
    prompt = "Write a function f(nums) that returns the sum of the squares of the even numbers in nums."
    done = diffucode(
        "generate", "-m", "pocket", "--max-tokens", "64", "--dtype", "float32", "-v", prompt, env={"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    names = {}
    exec(done.stdout, names)
    assert names["f"]([1, 2, 3, 4]) == 20
    for number in ("NFE", "positions forwarded", "useful tokens", "per forward", "per second", "peak memory"):
        assert number in done.stderr


def test_json_holds_the_text_and_every_number():
    done = diffucode("generate", *SHORT, "--preset", "exact", "--json", "hi")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["config"]["max_tokens"] == 6
    assert report["positions"] == report["nfe"] * (report["prompt_tokens"] + 6)
    assert report["tokens_per_forward"] == report["useful_tokens"] / report["nfe"]
    assert report["finish_reason"] in ("stop", "length")
    assert report["seconds"] > 0
    assert report["peak_memory_bytes"] > 0


@pytest.mark.parametrize("preset", ["exact", "balanced"])
def test_the_streamed_text_is_the_whole_text(preset):
    options = [*SHORT, "--preset", preset, "--temp", "2", "--seed", "3", "hi"]
    streamed = diffucode("generate", *options).stdout
    text = json.loads(diffucode("generate", "--json", *options).stdout)["text"]
    assert streamed.rstrip("\n") == text.rstrip("\n")
    assert streamed.endswith("\n")


def test_the_same_seed_writes_the_same_text():
    def text(seed):
        return diffucode("generate", *SHORT, "--temp", "2", "--seed", seed, "hi").stdout

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(1, 4)}) > 1


def test_the_preset_published_is_the_models_and_flags_override_it(tmp_path):
    folder = tmp_path / "DiffuCoder-7B-tiny"
    folder.symlink_to(TINY)

    def config(*options):
        return json.loads(diffucode("generate", "-m", folder, "--preset", "published", "--json", *options, "hi").stdout)["config"]

    found = config("--max-tokens", "4")
    assert (found["max_tokens"], found["temperature"], found["top_p"]) == (4, 0.3, 0.95)
    assert (found["rule"], found["window"]) == ("schedule", "whole")
    found = config("--max-tokens", "4", "--temp", "0", "--rule", "threshold", "--window", "sliding")
    assert (found["temperature"], found["top_p"], found["rule"], found["window"]) == (0, 0.95, "threshold", "sliding")


def test_a_preset_sets_what_no_flag_says():
    def config(*args):
        return json.loads(diffucode("generate", *SHORT, "--json", *args, "hi").stdout)["config"]

    assert (config()["rule"], config()["window"]) == ("threshold:tau=0.95", "tree:rows=32")
    assert config("--preset", "balanced") == config()
    assert config("--preset", "exact")["rule"] == config("--steps", "3")["rule"] == config("--reference")["rule"] == "schedule"
    assert config("--preset", "balanced", "--window", "whole")["window"] == "whole"
    assert config("--preset", "balanced", "--rule", "threshold:tau=0.5")["rule"] == "threshold:tau=0.5"


def prompt_length(*args, **options):
    return json.loads(diffucode("generate", *SHORT, "--json", *args, **options).stdout)["prompt_tokens"]


def test_piped_text_joins_the_argument():
    joined = prompt_length("one two", stdin="three four\n")
    assert joined == prompt_length("one two\n\nthree four")
    assert prompt_length(stdin="one two\n") == prompt_length("one two")
    assert prompt_length("-", stdin="one two") == prompt_length("one two")


def test_the_model_comes_from_the_environment_too():
    done = diffucode("generate", "--max-tokens", "4", "--json", "hi", env={"DIFFUCODE_MODEL": str(TINY)})
    assert json.loads(done.stdout)["model"] == str(TINY)


def test_special_tokens_in_the_prompt_act_with_raw_only():
    text = "a<|mask|><|im_end|>b"
    chat, raw = prompt_length(text), prompt_length("--raw", text)
    assert raw == 4
    assert chat > raw + 10


TOO_LONG = "99999999999999999999", "2048"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--max-tokens", "0"], "--max-tokens"),
        (["--max-tokens", "-5"], "--max-tokens"),
        (["--max-tokens", TOO_LONG[0]], "--max-tokens"),
        (["--max-tokens", TOO_LONG[1]], "context is 2048"),
        (["--steps", "0"], "--steps"),
        (["--steps", "99999999999"], "--steps"),
        (["--top-p", "1.5"], "--top-p"),
        (["--top-p", "0"], "--top-p"),
        (["--top-k", "-1"], "--top-k"),
        (["--temp", "-1"], "--temp"),
        (["--temp", "nan"], "--temp"),
        (["--alg", "best"], "--alg"),
        (["--eps", "2"], "--eps"),
        (["--seed", "-1"], "--seed"),
        (["--rule", "best"], "--rule"),
        (["--rule", "threshold:tau=7"], "--rule"),
        (["--window", "tiny"], "--window"),
        (["--preset", "quick"], "--preset"),
        (["--dtype", "int8"], "--dtype"),
        (["--preset", "balanced", "--steps", "4"], "steps"),
        (["--preset", "balanced", "--reference"], "--reference"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_impossible_value_names_its_flag(args, said):
    assert_one_line(diffucode("generate", "-m", TINY, *args, "hi"), said, code=1 if args[1] in TOO_LONG else 2)


@pytest.mark.parametrize("args", [[], [""], ["  \n"], ["-"]])
def test_an_empty_prompt_says_so(args):
    assert_one_line(diffucode("generate", "-m", TINY, *args), "prompt is empty", code=2)


def test_a_default_length_fits_what_a_long_prompt_leaves():
    done = diffucode("generate", "-m", TINY, "--raw", "--json", "x " * 2044)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["config"]["max_tokens"] == 2048 - report["prompt_tokens"] < 768


def test_a_prompt_longer_than_the_context_says_how_long():
    assert_one_line(diffucode("generate", "-m", TINY, "x " * 3000), "tokens long", "context is 2048")


def test_invalid_utf8_is_refused():
    assert_one_line(diffucode("generate", "-m", TINY, stdin=b"caf\xe9"), "not UTF-8")
    assert_one_line(diffucode("generate", "-m", TINY, b"caf\xe9".decode("utf-8", "surrogateescape")), "not valid Unicode")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors"),
        (
            lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b"12345678"),
            "model-00001-of-00002.safetensors",
        ),
        (lambda folder: (folder / "vocab.json").unlink(), "vocab.json"),
        (lambda folder: (folder / "merges.txt").write_bytes(b"\xff\xfe"), "merges.txt"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "model_type"),
    ],
    ids=["config", "shard", "truncated", "vocab", "merges", "kind"],
)
def test_a_damaged_folder_is_one_line(broken, damage, said):
    damage(broken)
    assert_one_line(diffucode("generate", "-m", broken, "hi"), said)


def test_a_closed_stdin_is_no_prompt_and_no_harm():
    script = f'"{COMMAND}" generate -m "{TINY}" --max-tokens 3 hi <&-'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_that_cannot_show_a_character_is_no_error():
    done = diffucode("generate", *SHORT, "--temp", "5", "--seed", "4", "hi", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr


def test_an_empty_model_name_is_the_default_and_asks_too(hub):
    with local_hub(DEFAULT_MODEL, TINY) as (endpoint, served):
        done = diffucode("generate", "-m", "", "hi", env=hub(endpoint))
        assert "--yes" in done.stderr
        assert served.weights == []


def test_a_folder_that_is_not_there():
    assert_one_line(diffucode("generate", "-m", "./nowhere", "hi"), "./nowhere", "no such folder")


def test_ctrl_c_keeps_what_is_finished_and_exits_130(tmp_path, endless):
    trace = tmp_path / "run.jsonl"
    process = subprocess.Popen(
        [COMMAND, "generate", *endless, "--trace", trace, "--json", "hi"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 60
    while not (trace.exists() and trace.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    report = json.loads(out)
    assert report["finish_reason"] == "interrupted"
    assert 0 < report["nfe"] < 6000
    assert b"Traceback" not in err


@pytest.fixture
def hub(tmp_path):
    def settings(endpoint):
        return {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }

    return settings


def test_a_hub_id_is_downloaded_once_and_no_code_with_it(hub, tmp_path):
    with local_hub("someone/dream-b", TINY) as (endpoint, served):
        done = diffucode("generate", "-m", "someone/dream-b", "--max-tokens", "3", "hi", env=hub(endpoint))
        assert done.returncode == 0, done.stderr
        assert "someone/dream-b: not on this machine" in done.stderr
        assert "model.safetensors" in served.weights
        assert not [name for name in served.weights if name.endswith((".py", ".jsonl"))]
        served.asked.clear()
        again = diffucode("generate", "-m", "someone/dream-b", "--max-tokens", "3", "hi", env=hub(endpoint))
        assert (again.returncode, again.stderr, served.asked) == (0, "", [])
    offline = diffucode("generate", "-m", "someone/dream-b", "--max-tokens", "3", "hi", env=hub("http://127.0.0.1:9"))
    assert offline.stdout == done.stdout


def test_an_id_the_hub_does_not_have(hub):
    with local_hub("someone/dream-b", TINY) as (endpoint, _):
        assert_one_line(diffucode("generate", "-m", "no/such", "hi", env=hub(endpoint)), "no/such", "no such model on the Hub")


def test_a_gated_model_says_how_to_get_it(hub):
    with local_hub("someone/dream-b", TINY) as (endpoint, served):
        served.faults = [(403, ".", 9, {"X-Error-Code": "GatedRepo"})]
        assert_one_line(diffucode("generate", "-m", "someone/dream-b", "hi", env=hub(endpoint)), "hf auth login")


def test_no_network_says_what_to_do(hub):
    assert_one_line(diffucode("generate", "-m", "some/model", "hi", env=hub("http://127.0.0.1:9")), "network", "-m pocket")
    offline = hub("http://127.0.0.1:9") | {"HF_HUB_OFFLINE": "1"}
    assert_one_line(diffucode("generate", "-m", "some/model", "hi", env=offline), "HF_HUB_OFFLINE")


def test_no_model_named_means_the_7b_and_asks_for_yes_where_nobody_can_answer(hub):
    with local_hub(DEFAULT_MODEL, TINY) as (endpoint, served):
        done = diffucode("generate", "--max-tokens", "3", "hi", env=hub(endpoint))
        assert done.returncode == 1
        what, size, memory, refused = done.stderr.splitlines()
        assert DEFAULT_MODEL in what
        assert "to download into" in size
        assert "of memory" in memory
        assert "--yes" in refused
        assert served.weights == []
        done = diffucode("generate", "--max-tokens", "3", "--yes", "hi", env=hub(endpoint))
        assert done.returncode == 0, done.stderr
        assert "model.safetensors" in served.weights


@pytest.mark.parametrize(("size", "said"), [(10**18, "not enough disk"), (10**11, "not enough memory")])
def test_what_does_not_fit_is_not_downloaded(hub, size, said):
    with local_hub(DEFAULT_MODEL, TINY, claimed_size=size) as (endpoint, served):
        done = diffucode("generate", "hi", env=hub(endpoint))
        assert done.returncode == 1
        # Where the disk is smaller than the memory asked for, that is said first.
        assert said in done.stderr or "not enough disk" in done.stderr
        assert served.weights == []


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0), (b"\x03", 130)])
def test_on_a_terminal_it_asks(hub, answer, code):
    with local_hub(DEFAULT_MODEL, TINY) as (endpoint, served):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [COMMAND, "generate", "--max-tokens", "3", "hi"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**hub(endpoint)),
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(slave)
        screen = b""
        while b"Download it?" not in screen:
            screen += os.read(master, 1024)
        os.write(master, answer)
        while True:
            if not select.select([master], [], [], 2)[0]:
                os.write(master, answer)  # Ctrl-C between the prompt and the wait for a key is noticed with the next one
                continue
            try:
                chunk = os.read(master, 1024)
            except OSError:
                break
            if not chunk:
                break
            screen += chunk
        assert process.wait(timeout=60) == code, screen.decode()
        assert bool(served.weights) == (code == 0)
        assert b"Traceback" not in screen
        os.close(master)
