"""`diffucode bench run`, `card` and `predict` as a user starts them."""

import json
import re
import sys

import pytest

from mlx_diffucoder.bench.report import SCHEMA, VERSION, mismatches

from ..conftest import DATA
from .command import assert_one_line, diffucode


def test_a_prediction_is_labelled_in_every_line_that_holds_one():
    done = diffucode("bench", "predict", "M5 Max", "--bits", 4, "--nfe", 40, "--positions", 900)
    assert done.returncode == 0
    assert done.stderr == ""
    first, *lines = done.stdout.splitlines()
    assert first.startswith("PREDICTED, not measured: DiffuCoder-7B-cpGRPO, 4 bits (4.28 GB), on Apple M5 Max (40 GPU cores)")
    assert "rows   predicted ms" in lines
    assert any(line.startswith("16 to 128: computed from MLX's choice of kernels") for line in lines)
    for line in lines:
        if "tokens/s" in line or "positions in" in line or "per tile" in line:
            assert "predicted" in line
    assert sum("GB/s" in line or "TFLOP/s" in line for line in lines) == 2


def test_a_prediction_as_json_holds_the_table_and_its_check():
    done = diffucode("bench", "predict", "m4 max 32", "--bits", 16, "--json")
    said = json.loads(done.stdout)
    assert said["predicted"] is True
    assert said["ceilings"]["gb_per_s"] == 410
    assert said["weight_bytes"] == 15_231_233_024
    assert [row["rows"] for row in said["forwards"]] == [1, 8, 16, 24, 31, 32, 33, 40, 64, 65, 128, 256, 512]
    assert all(row["seconds"] > 0 and row["evidence"] for row in said["forwards"])
    assert said["break_even_tokens_per_tile"] > 1
    assert {row["chip"] for row in said["published"]} == {"Apple M4 Max"}
    assert all(row["close"] for row in said["published"])


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac is in the table")
def test_the_card_of_an_unknown_chip_says_so_and_measures_its_ceilings():
    done = diffucode("bench", "card", "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert "not in the table" in done.stderr
    assert said["ceilings"]["source"].startswith("measured here")
    assert said["ceilings"]["bandwidth"] > 1e8
    assert said["ceilings"]["flops"] > 1e8


def test_what_cannot_be_predicted_is_one_line():
    assert_one_line(diffucode("bench", "predict", "M6"), "'M6'", "M5 Max", "bench predict here")
    assert_one_line(diffucode("bench", "predict", "M5", "--bits", 7), "--bits", "not 7", code=2)
    assert_one_line(diffucode("bench", "predict", "M5", "--measure"), "--measure", "here", code=2)
    assert_one_line(diffucode("bench", "predict", "M5", "--nfe", 3), "--positions", code=2)
    assert_one_line(diffucode("bench", "predict", "M5", "--nfe", 3, "--positions", 2), "--positions", "not 2", code=2)


def measured(*args):
    return diffucode(
        "bench",
        "run",
        "-m",
        DATA / "dream-b",
        "--max-tokens",
        8,
        "--trials",
        2,
        "--widest",
        20,
        "--rule",
        "schedule",
        "--prompt",
        "say hi",
        "--prompt",
        "x",
        *args,
    )


def test_a_model_is_measured_with_a_unit_on_every_figure():
    done = measured("--trials", 1)
    assert done.returncode == 0, done.stderr
    for said in (
        "trials: 1",
        "GB\n",
        "GB/s",
        "TFLOP/s",
        "MB,",
        "useful tokens/s",
        "forwards (NFE) of",
        "positions per useful token",
        "% of the roofline",
        "side by side, 2 answers each",
        "mlx-lm, same weights",
        "reference: one token a step",
    ):
        assert said in done.stdout, said
    times = [line for line in done.stdout.splitlines() if re.match(r" +(1|8|16) +\d", line) and " to " in line]
    assert len(times) == 3
    assert all(" ms (" in line and line.endswith("%") for line in times)
    for part in ("layers  ", "lm_head  ", "sampling  ", "host  ", "gap  "):
        assert any(line.strip().startswith(part) and " ms" in line for line in done.stdout.splitlines()), part


def test_a_measurement_as_json_is_the_file_it_writes(tmp_path):
    done = measured("--json", "--out", tmp_path / "run.json", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == json.loads((tmp_path / "run.json").read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert said["version"] == VERSION
    assert list(mismatches(said, SCHEMA)) == []
    assert [row["rows"] for row in said["forwards"]] == [1, 8, 16]
    assert said["model"]["random"] is False
    assert said["model"]["dtype"] == "float32"
    assert said["step"]["parts"].keys() == {"forward", "lm_head", "sampling", "host"}
    assert [row["name"] for row in said["decoders"]] == ["mlx-lm, same weights", "reference", "diffucode, exact"]
    mlx_lm, reference, own = said["decoders"]
    assert mlx_lm["useful_tokens"] == own["useful_tokens"]  # the same number of tokens to write
    assert (mlx_lm["ratio"]["median"], reference["nfe"]) == (1, 16)
    for row in said["decoders"]:
        assert len(row["generations"]) == 2
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        for one in row["generations"]:
            assert one["first_settled"]["seconds"] <= one["time"]["high"]
            assert one["time"]["trials"] == 2
            assert one["roofline_share"] > 0


@pytest.mark.slow
def test_random_weights_of_a_shape_say_what_is_assumed_of_them():
    shape = ("bench", "run", "--shape", "pocket", "--bits", 16, "--dtype", "float32", "--max-tokens", 8)
    done = diffucode(*shape, "--trials", 1, "--widest", 2)
    assert done.returncode == 0, done.stderr
    for rate in (1, 2, 4, 8):
        (row,) = (line for line in done.stdout.splitlines() if line.startswith(f"diffucode, {rate} assumed "))
        assert row.endswith(f" {rate}.00")
    assert "How many tokens a forward commits, from left to right, is\nassumed" in done.stdout
    assert "As fast as mlx-lm" in done.stdout or "Slower than mlx-lm at 8" in done.stdout
    assert max(len(line) for line in done.stdout.split("side by side")[1].splitlines()) <= 80
    done = diffucode(*shape, "--trials", 1, "--widest", 2, "--alone", "--tokens-per-forward", 3, "--json")
    (row,) = json.loads(done.stdout)["decoders"]
    assert (row["assumed_tokens_per_forward"], row["ratio"], row["nfe"], row["useful_tokens"]) == (3, None, 3, 8)


def test_what_cannot_be_measured_is_one_line(tmp_path):
    assert_one_line(diffucode("bench", "run", "--shape", "9b"), "--shape", "7b", code=2)
    assert_one_line(
        diffucode("bench", "run", "-m", "pocket", "--tokens-per-forward", 2), "--tokens-per-forward", "--shape", code=2
    )
    assert_one_line(diffucode("bench", "run", "--shape", "7b", "--tokens-per-forward", 0.5), "--tokens-per-forward", code=2)
    assert_one_line(diffucode("bench", "run", "-m", "pocket", "--alone", "--baseline", "x"), "--alone", "--baseline", code=2)
    assert_one_line(
        diffucode("bench", "run", "-m", DATA / "dream-b", "--baseline", "./nowhere"), "--baseline", "not on this machine"
    )
    assert_one_line(diffucode("bench", "run", "-m", "pocket", "--bits", 8), "--bits", "--shape", code=2)
    assert_one_line(diffucode("bench", "run", "-m", "pocket", "--layers", 8), "--layers", "--shape", code=2)
    assert_one_line(diffucode("bench", "run", "--shape", "7b", "-m", "pocket"), "--shape", "--model", code=2)
    assert_one_line(diffucode("bench", "run", "--shape", "7b", "--shard", "tensor"), "--shape", "--shard", code=2)
    assert_one_line(diffucode("bench", "run", "-m", "pocket", "--out", tmp_path), "--out", "is a folder")
    assert_one_line(diffucode("bench", "run", "-m", "pocket", "--out", tmp_path / "no" / "f.json"), "--out", "does not exist")
    assert_one_line(diffucode("bench", "run", "-m", tmp_path), "config.json: no such file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--delay", "inf"), ("--delay", "1e300"), ("--delay", "nan"), ("--trials", 10**20), ("--widest", 10**14)],
)
def test_absurd_numbers_are_refused_before_anything_is_measured(option, value):
    assert_one_line(diffucode("bench", "run", "-m", "pocket", option, value), f"'{option}'", code=2)


@pytest.mark.parametrize(
    ("given", "subcommand"),
    [
        (("-m", "pocket"), "run"),
        (("--shape", "7b", "--bits", 4), "run"),
        (("--preset", "exact", "--json"), "run"),
        (("--card",), "card"),
        (("--card", "--json"), "card"),
        (("--predict", "M5"), "predict"),
        (("--predict=M5", "--bits", 4), "predict"),
        (("-m", "pocket", "--tune"), "tune"),
        (("-m", "pocket", "compare", "one.json"), "run"),
    ],
)
def test_options_after_bench_name_the_subcommand_to_use(given, subcommand):
    assert_one_line(diffucode("bench", *given), f"use `bench {subcommand}`", code=2)


@pytest.mark.parametrize(
    ("subcommand", "option"),
    [
        ("card", "--bits"),
        ("card", "--out"),
        ("card", "--predict"),
        ("predict", "--layers"),
        ("predict", "--out"),
        ("predict", "--model"),
        ("tune", "--shape"),
        ("tune", "--out"),
        ("tune", "--window"),
        ("run", "--nfe"),
        ("run", "--predict"),
        ("compare", "--model"),
    ],
)
def test_a_subcommand_does_not_offer_options_that_mean_nothing_to_it(subcommand, option):
    assert_one_line(diffucode("bench", subcommand, option, "1"), f"No such option: {option}", code=2)
