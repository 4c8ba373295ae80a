"""Answers that are spread over workers on this machine: the same as one process gives, whoever dies."""

import json
import os
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_diffucoder.cluster import machines as machines_module
from mlx_diffucoder.cluster import training
from mlx_diffucoder.cluster.calibration import SpreadProbe
from mlx_diffucoder.cluster.compare import spread_compare
from mlx_diffucoder.cluster.hostfile import read_hosts
from mlx_diffucoder.cluster.machines import open_machines
from mlx_diffucoder.cluster.training import spread_answers as spread_own_answers
from mlx_diffucoder.cluster.training import spread_rollouts
from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.convert import ConvertConfig, calibrate, convert
from mlx_diffucoder.convert.calibrate import Calibrator
from mlx_diffucoder.convert.sensitivity import Probe
from mlx_diffucoder.data import Text
from mlx_diffucoder.divergence.masking import masked_canvases
from mlx_diffucoder.errors import ClusterError, ConfigError
from mlx_diffucoder.evaluation import Limits
from mlx_diffucoder.evaluation.compare import Checkpoint, compare
from mlx_diffucoder.generation import prompt_ids
from mlx_diffucoder.tasks import Task
from mlx_diffucoder.tokenizer import Tokenizer
from mlx_diffucoder.training.answers import answer_here
from mlx_diffucoder.training.grpo import Prompt
from mlx_diffucoder.training.learners import Tuning, from_checkpoint
from mlx_diffucoder.training.rollouts import roll_out

from ..cli.command import COMMAND, diffucode, environment
from ..cli.test_eval import results
from ..conftest import DATA
from ..evaluation.programs import FUNCTIONS
from .test_hostfile import hostfile, script

dask = pytest.importorskip("dask")
pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow
BASE, DECODING = DATA / "dream-b", GenerationConfig(max_tokens=8)
EVAL = ("eval", FUNCTIONS, "-m", DATA / "dream-b", "--max-tokens", "16", "--preset", "exact", "-n", "5", "--temp", "1")
EVAL += ("--dtype", "float32", "--limit", "2", "--sandbox", "off", "--allow-code-execution")


@pytest.fixture
def hosts(tmp_path):
    return hostfile(tmp_path, [{"ssh": "127.0.0.1"}, {"ssh": "127.0.0.1"}])


def start(hosts, out):
    command = [COMMAND, *map(str, EVAL), "--cluster", hosts, "--out", out, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)


def workers_after(process, out, rows):
    """The workers of a run that has so many rows."""
    until = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") <= rows:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    return [one for one in psutil.Process(process.pid).children() if "mlx_diffucoder.cluster.worker" in one.cmdline()]


def assert_gone(workers):
    _, alive = psutil.wait_procs(workers, timeout=3)
    assert alive == []


def test_rows_are_those_of_one_process_although_the_first_machine_and_then_a_worker_are_killed(hosts, tmp_path):
    out, one = tmp_path / "spread.jsonl", tmp_path / "one.jsonl"
    first = start(hosts, out)
    workers = workers_after(first, out, 1)
    assert len(workers) == 2
    first.kill()
    first.communicate()
    assert_gone(workers)
    kept = len(results(out))
    assert 1 <= kept < 10
    second = start(hosts, out)
    workers_after(second, out, kept + 1)[0].kill()
    shown, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert said.count("no longer answers; its tasks go to the other machines") == 1
    assert json.loads(shown)["answers"] == 10
    assert diffucode(*EVAL, "--out", one).returncode == 0
    in_order = sorted(results(out), key=lambda row: (row["task_id"], row["sample"]))
    assert in_order == sorted(results(one), key=lambda row: (row["task_id"], row["sample"]))
    assert out.read_text().splitlines()[0] == one.read_text().splitlines()[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_its_rows_and_leaves_no_worker(hosts, tmp_path, number, code):
    out = tmp_path / "out.jsonl"
    run = start(hosts, out)
    workers = workers_after(run, out, 2)
    run.send_signal(number)
    shown, said = run.communicate(timeout=20)
    assert run.returncode == code, said
    assert "Traceback" not in said
    assert json.loads(shown)["answers"] == len(results(out)) >= 2
    assert_gone(workers)


def test_several_answers_are_those_of_one_batch(hosts):
    args = ("generate", "Add 1.", "-m", DATA / "dream-b", "--dtype", "float32", "-n", "3", "--temp", "1", "--seed", "4")
    args += ("--max-tokens", "8", "--json")
    one, spread = (json.loads(diffucode(*args, *more).stdout)["answers"] for more in ((), ("--cluster", hosts)))
    assert [(row["text"], row["canvas"]) for row in spread] == [(row["text"], row["canvas"]) for row in one]
    assert [row["score"] for row in spread] == pytest.approx([row["score"] for row in one], abs=1e-4)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Two machines, one of them over a stand-in for ssh, and what is said about them."""
    folder, said = tmp_path_factory.mktemp("cluster"), []
    script(folder, "ssh", 'for last; do :; done; SSH_CONNECTION="127.0.0.1 1 127.0.0.1 2" exec sh -c "$last"')
    often = dask.config.set({"distributed.client.scheduler-info-interval": "1ms"})  # as in runs that take a thousand times longer
    with pytest.MonkeyPatch.context() as patch, often:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        patch.setattr(machines_module, "STALL", 5)
        with open_machines(str(hostfile(folder, [{"ssh": "127.0.0.1"}, {"ssh": "mac2"}])), said.append) as machines:
            yield machines, said


def test_no_machine_is_missing_for_a_moment(opened):
    machines, _ = opened
    assert {len(machines._names(machines._client)) for _ in range(150)} == {2}


def test_nothing_listens_beyond_loopback_without_a_key_of_this_run(opened):
    machines, _ = opened
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [one.laddr for process in mine for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
    beyond = [address.port for address in ports if address.ip != "127.0.0.1"]
    assert beyond == [int(machines._client.scheduler.address.rpartition(":")[2])]
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", beyond[0])) as plain,
        pytest.raises(OSError, match=r"certificate required|reset|EOF"),
        stranger.wrap_socket(plain) as wrapped,  # TLS 1.3 refuses at the first bytes that are read
    ):
        wrapped.sendall(b"\0" * 64)
        assert wrapped.recv(64)


def test_a_task_that_cannot_be_done_names_its_machine(opened):
    with pytest.raises(ClusterError, match=r"^(127.0.0.1|mac2): /nowhere"):
        list(opened[0].results([partial(read_hosts, Path("/nowhere"))]))


@pytest.fixture(scope="module")
def learner():
    return from_checkpoint(BASE, str(BASE), Tuning(tune="lora", rank=2, dtype="float32"), 0)


def prompts(learner, count):
    tasks = [Task(id=str(i), where="", prompt=f"Add {i}.", tests="assert True\n") for i in range(count)]
    return [Prompt(task, prompt_ids(learner.model, learner.tokenizer, task.prompt, DECODING)) for task in tasks]


def test_own_answers_to_distil_are_those_of_one_process(opened, learner):
    batches = [[(prompt.task.id, prompt)] for prompt in prompts(learner, 3)]
    given = (learner.model, learner.tokenizer, batches, DECODING, Limits(sandbox="off"))
    spread = spread_own_answers(opened[0], learner, Limits(sandbox="off"), "off")(*given)
    assert sorted(spread, key=str) == sorted(answer_here(*given), key=str)


def test_rollouts_are_those_of_one_process_with_the_weights_of_their_round(opened, learner):
    config = replace(DECODING, temperature=1.0)
    asked = [(prompt.task, prompt.ids, replace(config, seed=seed)) for seed, prompt in enumerate(prompts(learner, 3))]
    spread = spread_rollouts(opened[0], learner, Limits(sandbox="off"), "off")
    rounds = []
    for _ in range(2):
        given = (learner.model, learner.tokenizer, asked, 2, Limits(sandbox="off"))
        (one, rewards), (other, others) = roll_out(*given), spread(*given)
        rounds.append([written.answers.tokens.tolist() for written in one])
        assert rounds[-1] == [written.answers.tokens.tolist() for written in other]
        assert rewards == others
        learner.model.update(tree_map(lambda array: array + 0.1, learner.model.trainable_parameters()))
    assert rounds[0] != rounds[1]


def test_trained_weights_that_are_too_large_to_send_are_refused(opened, learner, monkeypatch):
    monkeypatch.setattr(training, "LARGEST", 1000)
    with pytest.raises(ConfigError, match=r"^--cluster would send .* in every round, and .* is the most; train an adapter"):
        spread_rollouts(opened[0], learner, Limits(sandbox="off"), "off")


def texts():
    tokenizer = Tokenizer.load(BASE)
    return tokenizer, [
        Text(np.array(tokenizer.encode("Add 1.")), np.array(tokenizer.encode(f"y = {i}\n" * i))) for i in (1, 2, 3)
    ]


def test_compared_numbers_are_those_of_one_process(opened, tmp_path):
    tokenizer, encoded = texts()
    canvases = masked_canvases(encoded, tokenizer.mask_id)
    convert(BASE, tmp_path / "q", ConvertConfig(quantize=True, q_group_size=32))
    base, *others = (Checkpoint.of(str(one), one) for one in (BASE, tmp_path / "q"))
    done = []
    spread = list(spread_compare(opened[0], base, others, canvases, by_layer=None, advance=done.append))
    assert spread == list(compare(base, others, canvases))
    assert sum(done) == 2 * len(canvases)


def test_calibrated_bits_are_those_of_one_process(opened, monkeypatch):
    monkeypatch.setattr(calibrate, "TRIES", 2)
    monkeypatch.setattr(calibrate, "BITS", (2, 4))
    told = []
    spread = partial(SpreadProbe, machines=opened[0], name=str(BASE))
    one, other = (
        Calibrator(BASE, *texts(), probe=probe, tell=lambda *said: told.append(said)).choose(6) for probe in (Probe, spread)
    )
    assert one == other
    assert told[-1][0] == told[-1][1]


def test_a_worker_that_stalls_is_replaced(opened):
    machines, said = opened
    found = machines.results([partial(time.sleep, 0.1)] * 30)
    first, _ = next(found)
    stopped = next(one for one in psutil.Process().children(recursive=True) if "mlx_diffucoder.cluster.worker" in one.cmdline())
    stopped.suspend()
    places = {first, *(place for place, _ in found)}
    stopped.kill()
    assert places == set(range(30))
    assert len(said) == 1
    assert said[0].endswith(" no longer answers; its tasks go to the other machines")
