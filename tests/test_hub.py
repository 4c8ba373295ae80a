"""Models from the Hub: whatever the network, the Hub, the cache and the user do, the end is a whole model or one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from mlx_diffucoder import hub
from mlx_diffucoder.errors import CheckpointError, ConfigError, HubError
from mlx_diffucoder.loading import load

from .cli.command import COMMAND, assert_ends_at_once, diffucode, environment
from .cli.terminal import written_to_a_terminal
from .conftest import DATA
from .hub import COMMIT, local_hub

REPO = "someone/dream"
SOURCE = DATA / "dream-a"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def served(tmp_path, monkeypatch):
    with local_hub(REPO, SOURCE) as (endpoint, served):
        served.endpoint = endpoint
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        # Between two tries it waits a tenth of the time.
        hasty = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(seconds / 10)})
        monkeypatch.setattr(hub.transfer, "time", hasty)
        yield served


def assert_whole(folder):
    for name in ("config.json", "vocab.json", *SHARDS):
        assert (folder / name).read_bytes() == (SOURCE / name).read_bytes()
    assert not list(folder.parents[1].rglob("*.incomplete"))


def test_a_file_that_arrives_very_slowly_is_told(served, monkeypatch, caplog):
    monkeypatch.setattr(hub.transfer, "SLOW_AFTER", 0.2)
    monkeypatch.setattr(hub.transfer, "SLOW", 1e12)
    served.faults.append(("slow", "vocab.json", 1, None))
    assert_whole(hub.fetch_model(REPO))
    assert [line for line in caplog.messages if "vocab.json: only" in line and "Ctrl-C" in line]


def test_only_what_is_needed_is_fetched_and_config_first(served):
    folder = hub.fetch_model(REPO)
    assert_whole(folder)
    assert sorted(served.weights) == SHARDS  # not expected.safetensors
    assert next(path for path, _ in served.asked if "/resolve/" in path).endswith("config.json")
    served.asked.clear()
    assert hub.fetch_model(REPO) == folder
    assert served.asked == []


PASSING = [
    ("drop", "00001", 1, None),
    ("stall", "00001", 1, None),
    ("hang", "config.json", 1, None),
    ("hang", "00002", 1, None),
    ("corrupt", "00001", 1, None),
    (429, "/api/models", 1, {"Retry-After": "1"}),
    (503, ".", 2, {}),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault[0]} {fault[1]}")
def test_trouble_that_passes_is_not_seen(served, fault):
    served.faults = [fault]
    assert_whole(hub.fetch_model(REPO))


LASTING = [
    ("hang", "/api/models", None, "the list of files: no answer from http.* within 2 s"),
    ("hang", "config.json", None, "config.json: no answer"),
    ("hang", "00001", None, "00001-of-00002.safetensors: no answer"),
    ("stall", "00001", None, "00001-of-00002.safetensors: no answer"),
    ("drop", "config.json", None, "config.json: the connection broke"),
    ("corrupt", "00001", None, "00001-of-00002.safetensors: arrived damaged twice"),
    ("size", "/api/models", 10, r"config.json: the Hub lists \d+ bytes, but sends"),
    (500, ".", {}, "refused .status 500.; try again later"),
    (404, "00001", {}, "does not have it"),
    (429, "/api/models", {"Retry-After": "1000"}, "too many requests.*1000 s"),
    (403, ".", {"X-Error-Code": "GatedRepo"}, f"is gated: accept its terms at http.*/{REPO}, then"),
    (401, ".", {"X-Error-Code": "RepoNotFound"}, "no such model on the Hub .for a private one, run `hf auth login`"),
    (200, "/api/models", {}, "answer of http.* cannot be read"),
]


@pytest.mark.parametrize(("kind", "match", "value", "said"), LASTING, ids=[f"{one[0]} {one[1]}" for one in LASTING])
def test_trouble_that_lasts_ends_in_a_line_within_seconds(served, kind, match, value, said):
    served.faults = [(kind, match, 99, value)]
    began = time.monotonic()
    with pytest.raises(HubError, match=said):
        hub.fetch_model(REPO)
    assert time.monotonic() - began < 15
    served.faults = []
    assert_whole(hub.fetch_model(REPO))


@pytest.mark.parametrize("fault", [("hang", "README", 99, None), (404, "README", 99, {})], ids=["hang", "404"])
def test_a_model_card_that_cannot_be_fetched_is_done_without(served, fault, caplog):
    served.faults = [fault]
    folder = hub.fetch_model(REPO)
    assert_whole(folder)
    assert not (folder / "README.md").exists()
    assert "README.md" in caplog.text and "will not know the licence" in caplog.text


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_named(served, status, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    served.faults = [(status, ".", 99, {})]
    with pytest.raises(HubError, match=r"refuses your token \(HF_TOKEN"):
        hub.fetch_model(REPO)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "config.json: model_type"),
        ({"quantization_config": {"quant_method": "gptq"}}, "config.json: the quantization_config block of 'gptq'"),
        ({"mask_token_id": 757}, "config.json: mask_token_id 757 is no token of the tokenizer"),
        ({"files": ["config.json", "model.safetensors.index.json", *SHARDS]}, "has neither tokenizer.json nor vocab.json"),
        ({"files": ["config.json", "model.gguf"]}, "no .safetensors, only GGUF"),
        ({"files": ["config.json", "pytorch_model.bin"]}, "no .safetensors, only pickled"),
        ({"files": ["model.gguf"]}, "no config.json, only GGUF"),
        ({"files": ["config.json", "model.safetensors.index.json"]}, "has no .safetensors"),
        ({"files": ["config.json", "model.safetensors.index.json", SHARDS[0]]}, f"has no {SHARDS[1]}"),
    ],
)
def test_what_cannot_run_is_refused_before_its_weights(served, tmp_path, change, said):
    served.folder = tmp_path / "repo"
    served.folder.mkdir()
    for name in change.pop("files", ["config.json", "vocab.json", "merges.txt", "model.safetensors.index.json", *SHARDS]):
        (served.folder / name).write_bytes((SOURCE / name).read_bytes() if (SOURCE / name).exists() else b"x")
    if change:
        settings = json.loads((SOURCE / "config.json").read_text()) | change
        (served.folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises((CheckpointError, ConfigError), match=f"{REPO}.*{said}"):
        hub.fetch_model(REPO)
    assert served.weights == []


def test_names_that_leave_the_folder_are_not_fetched(served, tmp_path):
    served.names = ["../../evil.json", "/etc/evil", "config.json/../x", "a/b.safetensors", 3]
    assert_whole(hub.fetch_model(REPO))
    assert not [file for file in tmp_path.rglob("*") if "evil" in file.name]


def test_a_server_without_hashes_works_as_well(served):
    served.stated = False
    folder = hub.fetch_model(REPO)
    assert_whole(folder)
    served.asked.clear()
    assert hub.fetch_model(REPO) == folder
    assert served.asked == []


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.resolve().write_bytes(bytes(content))


def truncate(file):
    file.resolve().write_bytes(file.read_bytes()[:-5])


def remove_target(file):
    file.resolve().unlink()


@pytest.mark.parametrize("name", [SHARDS[0], "config.json", "vocab.json"])
@pytest.mark.parametrize("damage", [flip, truncate, remove_target, os.unlink])
def test_a_damaged_cache_is_mended(served, monkeypatch, damage, name):
    folder = hub.fetch_model(REPO)
    file = folder / name
    damage(file)
    if damage is not remove_target and damage is not os.unlink:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match=f"{name} is damaged.*rm {file}`"):
            hub.fetch_model(REPO)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert_whole(hub.fetch_model(REPO))
    damage(file)
    file.unlink(missing_ok=True)  # as the line says
    assert_whole(hub.fetch_model(REPO))


def test_a_part_is_continued_and_leftovers_are_removed(served, tmp_path):
    served.faults = [("drop", "00001", 99, None)]
    with pytest.raises(HubError):
        hub.fetch_model(REPO)
    [part] = tmp_path.rglob("*.incomplete")
    had = part.stat().st_size
    assert had > 0
    leftover = part.with_name("f" * 64 + ".1234.incomplete")
    leftover.write_bytes(b"x")
    served.faults, served.asked = [], []
    assert_whole(hub.fetch_model(REPO))
    assert [(path.rsplit("/", 1)[1], since) for path, since in served.asked if "00001" in path] == [(SHARDS[0], had)]


def test_a_revision_is_its_own_and_a_refresh_asks(served, monkeypatch):
    assert hub.cached(f"{REPO}@v1") is None
    folder = hub.fetch_model(f"{REPO}@v1")
    assert hub.cached(f"{REPO}@v1") == hub.cached(f"{REPO}@{COMMIT}") == folder
    assert hub.cached(REPO) is None
    with pytest.raises(HubError, match="no revision v2"):
        hub.fetch_model(f"{REPO}@v2")
    served.asked.clear()
    hub.fetch_model(f"{REPO}@v1", refresh=True)
    assert [path for path, _ in served.asked] == [f"/api/models/{REPO}/revision/v1"]


def test_a_cache_that_cannot_be_written_is_named(served, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(HubError, match=f"{tmp_path}/cache.*HF_HOME"):
        hub.fetch_model(REPO)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ENDPOINT", "rubbish", "HF_ENDPOINT=rubbish is no address"),
        ("ENDPOINT", "ftp://x", "HF_ENDPOINT=ftp://x is no address"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", -3, "HF_HUB_DOWNLOAD_TIMEOUT=-3: must be"),
        ("HF_TOKEN", "té", "HF_TOKEN.*holds characters that no token has"),
    ],
)
def test_a_setting_of_the_client_that_cannot_work_is_named(served, monkeypatch, name, value, said):
    monkeypatch.setenv("HF_TOKEN", value) if name == "HF_TOKEN" else monkeypatch.setattr(huggingface_hub.constants, name, value)
    with pytest.raises(HubError, match=said):
        hub.fetch_model(REPO)


def settings_for(served, tmp_path, **more):
    home = tmp_path / "home"
    return {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}


@pytest.mark.parametrize("variable", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
def test_a_variable_that_is_no_number_is_named(served, tmp_path, variable):
    done = diffucode("generate", "-m", REPO, "hi", env=settings_for(served, tmp_path, **{variable: "abc"}))
    assert done.returncode == 1
    assert f"{variable}=abc" in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.parametrize(
    ("fault", "number", "code"),
    [
        (("stall", "-of-", 99, None), signal.SIGINT, 130),
        (("hang", "config.json", 99, None), signal.SIGINT, 130),
        (("stall", "-of-", 99, None), signal.SIGTERM, 143),
        (("stall", "-of-", 99, None), signal.SIGKILL, -9),
    ],
)
def test_a_download_ends_at_once_and_is_continued(served, tmp_path, fault, number, code):
    served.faults = [fault]
    env = environment(**settings_for(served, tmp_path))
    process = subprocess.Popen(
        [COMMAND, "convert", REPO, tmp_path / "out"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not any(fault[1] in path for path, _ in served.asked) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # what is sent arrives
    assert_ends_at_once(process, number, code)
    served.faults, served.asked = [], []
    done = diffucode("convert", REPO, tmp_path / "out", env=settings_for(served, tmp_path))
    assert done.returncode == 0, done.stderr
    assert all(since for path, since in served.asked if "-of-" in path) or "config" in fault[1]
    assert not list(tmp_path.rglob("*.incomplete"))
    load(tmp_path / "out")


def test_a_whole_model_is_converted_without_a_network_and_its_licence_may_be_unknown(served, tmp_path):
    env = settings_for(served, tmp_path)
    assert diffucode("convert", f"{REPO}@v1", tmp_path / "one", env=env).returncode == 0
    card = (tmp_path / "one" / "README.md").read_text()
    assert "license: mit" in card
    assert f"base_model: {REPO}\n" in card
    for file in (tmp_path / "home").rglob("README.md"):
        file.unlink()
    served.faults = [("hang", ".", 99, None)]
    done = diffucode("convert", REPO, tmp_path / "two", "--revision", "v1", env=env)
    assert done.returncode == 0, done.stderr
    assert "licence of the source is not known" in (tmp_path / "two" / "README.md").read_text()


@pytest.mark.parametrize("command", ["generate", "convert", "compare"])
def test_a_download_has_one_display(served, tmp_path, command):
    args = {
        "generate": ("-m", REPO, "--yes", "--max-tokens", "2", "hi"),
        "convert": (REPO, tmp_path / "out"),
        "compare": (SOURCE, REPO, "--limit", "1", "--yes"),
    }
    env = settings_for(served, tmp_path)
    written, code = written_to_a_terminal(command, *args[command], **env)
    assert code == 0, written
    assert "Fetching" not in written  # the client's own bars
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is shown again
    assert not re.search("[⠀-⣿]", written.rsplit("\x1b[?25h")[-1])  # and no spinner is left
    shutil.rmtree(tmp_path / "home")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    if command == "generate":
        written, code = written_to_a_terminal(command, *args[command], TERM="dumb", **env)
        assert code == 0
        assert "\x1b" not in written


def test_a_revision_of_a_folder_is_refused(tmp_path):
    done = diffucode("generate", "-m", SOURCE, "--revision", "v1", "hi")
    assert done.returncode == 2
    assert "--revision v1 is for models on the Hub" in done.stderr
