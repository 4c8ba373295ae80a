"""`diffucode models`: what is listed, what fits, and what is predicted."""

import json
import re

import pytest

from mlx_diffucoder.catalogue import CATALOGUE
from mlx_diffucoder.cli import model_option
from mlx_diffucoder.hub import parse_id
from mlx_diffucoder.models import FAMILIES

from ..conftest import DATA
from ..hub import local_hub
from .command import assert_one_line, diffucode


def test_every_family_has_a_model_in_the_catalogue():
    assert {one.family.name for one in CATALOGUE} == {family.name for family in FAMILIES}
    for one in CATALOGUE:
        assert parse_id(one.repo) is not None
        assert not one.human_eval or one.source
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)


def test_the_list_is_whole_at_80_columns_and_says_what_is_predicted():
    done = diffucode("models", "--chip", "M4 Max")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for one in CATALOGUE:
        assert one.repo in done.stdout
    assert all("predicted: " in line for line in done.stdout.splitlines() if "tokens/s" in line)


def test_without_a_known_chip_no_speed_is_made_up():
    done = diffucode("models")
    assert done.returncode == 0
    assert ("tokens/s" in done.stdout) == ("no speeds are predicted" not in done.stderr)


def test_json_has_the_sizes_that_convert_would_write(tmp_path):
    said = json.loads(diffucode("models", "--json", "--chip", "M4 Pro", env={"HF_HOME": str(tmp_path)}).stdout)
    assert said["predicted_for"].startswith("Apple M4 Pro")
    by_name = {one["name"]: one for one in said["models"]}
    first = by_name["DiffuCoder-7B-cpGRPO"]
    assert [size["bits"] for size in first["sizes"]] == [4, 8, 16]
    assert first["sizes"][2]["weight_bytes"] == 2 * first["parameters"]
    assert first["sizes"][0]["predicted"].keys() == {"autoregressive_tokens_per_second", "break_even_tokens_per_tile"}
    blocks = by_name["Stable-DiffCoder-8B"]["sizes"][0]["predicted"]
    assert "break_even_tokens_per_forward" in blocks
    assert not any(one["downloaded"] for one in said["models"])


@pytest.mark.parametrize("chip", ["nonsense", ""])
def test_an_unknown_chip_is_one_line(chip):
    done = diffucode("models", "--chip", chip)
    assert_one_line(done)
    assert "M4 Max" in done.stderr


NAME, REPO, SOURCE = "diffucoder", CATALOGUE[0].repo, DATA / "dream-a"


@pytest.fixture
def machine(tmp_path):
    """Runs a command on a machine of its own, with a Hub that has one model; `machine.served` is what it was asked for."""
    with local_hub(REPO, SOURCE) as (endpoint, served):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        env["DIFFUCODE_CONVERSIONS"] = str(tmp_path / "made")

        def run(*args, **more):
            return diffucode(*args, env=env | more)

        run.served, run.env = served, env
        yield run


def here(machine):
    """Name -> state of what is on a machine."""
    said = json.loads(machine("models", "--json").stdout)
    return {one["name"]: one["state"] for one in said["on_this_machine"]}


def test_a_model_is_pulled_converted_run_listed_and_removed_by_its_name(machine, tmp_path):
    refused = machine("models", "pull", f"{NAME}:4bit")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--yes to convert it" in refused.stderr.splitlines()[-1]
    assert machine.served.weights == [] and not list((tmp_path / "made").iterdir())

    pulled = machine("models", "pull", f"{NAME}:4bit", "--yes")
    assert (pulled.returncode, pulled.stdout) == (0, f"{NAME}:4bit\n"), pulled.stderr
    assert here(machine) == {f"{NAME}:4bit": "converted", f"{NAME}:16bit": "downloaded"}
    machine.served.asked.clear()
    again = json.loads(machine("models", "pull", f"{REPO}:4", "--json").stdout)
    assert again["path"] == str(tmp_path / "made" / f"{NAME}-4bit")
    config = json.loads((tmp_path / "made" / f"{NAME}-4bit" / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    assert machine("convert", f"{NAME}:16bit", tmp_path / "out", "--dry-run").returncode == 0
    assert machine.served.asked == []

    listed = machine("models").stdout
    assert f"  {NAME}:4bit " in listed and "fits here; converted" in listed
    refused = machine("models", "rm", NAME)
    assert refused.returncode == 1 and len(here(machine)) == 2
    removed = machine("models", "rm", f"{NAME}:16bit", "--yes")
    assert (removed.returncode, removed.stdout) == (0, f"{NAME}:16bit\n")
    assert list((tmp_path / "hf" / "hub").glob("models--*")) == [] and here(machine) == {f"{NAME}:4bit": "converted"}
    assert json.loads(machine("models", "rm", NAME, "--yes", "--json").stdout)["removed"][0]["state"] == "converted"
    assert here(machine) == {} and list((tmp_path / "made").iterdir()) == []


def test_what_is_in_the_cache_is_converted_without_the_network_and_only_after_asking(machine):
    assert machine("models", "pull", f"{NAME}:16bit").returncode == 0
    offline = {"HF_HUB_OFFLINE": "1"}
    assert "--yes to convert it" in machine("models", "pull", f"{NAME}:6bit", **offline).stderr
    assert machine("models", "pull", f"{NAME}:6bit", "--yes", **offline).returncode == 0
    assert (
        json.loads(machine("generate", "--json", "-m", NAME.upper(), "--max-tokens", 2, "hi").stdout)["model"] == f"{NAME}:6bit"
    )


def test_a_stopped_download_is_listed_continued_and_can_be_removed(machine):
    machine.served.faults = [(404, "00002", 9, {})]
    assert machine("models", "pull", REPO).returncode == 1
    assert here(machine) == {f"{NAME}:16bit": "incomplete"}
    assert_one_line(machine("generate", "-m", NAME, "hi"), f"{NAME} is not on this machine; run `diffucode models pull {NAME}`")
    machine.served.faults = []
    assert machine("models", "pull", f"{NAME}:16bit").returncode == 0
    assert here(machine) == {f"{NAME}:16bit": "downloaded"}
    assert machine("models", "rm", REPO, "-y").returncode == 0
    assert here(machine) == {}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("free_disk", lambda folder: 4 * 10**9, "not enough disk space in .*made/diffucoder-4bit: 4.29 GB needed"),
        ("fit_of", lambda size: "no", "not enough memory to run it: about 4.71 GB needed"),
    ],
)
def test_a_conversion_that_does_not_fit_downloads_nothing(machine, monkeypatch, name, value, said):
    monkeypatch.setattr(model_option, name, value)
    done = machine("models", "pull", f"{NAME}:4bit")
    assert done.returncode == 1 and re.search(said, done.stderr.splitlines()[-1])
    assert machine.served.weights == []


def test_a_cache_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "hub").touch()
    assert_one_line(diffucode("models", env={"HF_HOME": str(tmp_path)}), "the Hub's cache: cannot be read", "check HF_HOME")


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coda").mkdir()
    assert_one_line(diffucode("generate", "-m", "coda", "hi"), "coda/config.json: no such file")


BAD = [
    (("generate", "-m", "coda:8bit", "hi"), "coda:8bit is not on this machine; run `diffucode models pull coda:8bit`"),
    (("convert", "coda", "out", "-q"), "coda is not on this machine; run `diffucode models pull coda`"),
    (("compare", "pocket", "sdar:4", "--limit", "1"), "sdar:4 is not on this machine"),
    (("generate", "-m", "coda:7bit", "hi"), "coda:7bit: bits must be one of 2, 3, 4, 5, 6, 8, 16, as in coda:4bit"),
    (("generate", "-m", "stable-difcoder:4bit", "hi"), "did you mean 'stable-diffcoder'?"),
    (("models", "pull", "drem-coder"), "did you mean 'dream-coder'?"),
    (("models", "pull", "coda:"), "bits must be one of"),
    (("models", "rm", "coda"), "coda is not on this machine; `diffucode models` lists what is"),
    (("models", "pull", "someone/model:4bit"), "name a Hub id (owner/name) or one of"),
    (("models", "rm", "someone/model"), "someone/model is not on this machine"),
    (("models", "rm", "someone/model@v1"), "someone/model@v1: all its revisions are removed together; leave out @v1"),
    (("models", "rm", "./folder"), "name a Hub id (owner/name) or one of diffucoder, stable-diffcoder"),
    (("models", "pull", "pocket"), "pocket comes with this program"),
]


@pytest.mark.parametrize(("args", "said"), BAD, ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "")
def test_a_name_that_cannot_be_used_is_one_line(args, said, tmp_path):
    assert_one_line(diffucode(*args, env={"HF_HOME": str(tmp_path)}), said)


def test_short_names_are_unique_and_keep_what_the_publisher_states():
    for one in CATALOGUE:  # a conversion's folder has the short name
        assert one.family.published(one.repo) == one.family.published(f"{one.short_name}-4bit")
    names = [name for one in CATALOGUE for name in (one.short_name, one.name.lower())]
    assert len(set(names)) == len(names) and not any("/" in name for name in names)
