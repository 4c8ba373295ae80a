"""`diffucode bench` as a user starts it."""

import json
import sys

import pytest

from .command import assert_one_line, diffucode


def test_a_prediction_is_labelled_in_every_line_that_holds_one():
    done = diffucode("bench", "--predict", "M5 Max", "--bits", 4, "--nfe", 40, "--positions", 900)
    assert done.returncode == 0
    assert done.stderr == ""
    first, *lines = done.stdout.splitlines()
    assert first.startswith("PREDICTED, not measured: DiffuCoder-7B, 4 bits (4.28 GB), on Apple M5 Max (40 GPU cores)")
    assert "positions   predicted ms   bound by" in lines
    for line in lines:
        if "tokens/s" in line or "positions in" in line:
            assert "predicted" in line
    assert sum("GB/s" in line or "TFLOP/s" in line for line in lines) == 2


def test_a_prediction_as_json_holds_the_table_and_its_check():
    done = diffucode("bench", "--predict", "m4 max 32", "--bits", 16, "--json")
    said = json.loads(done.stdout)
    assert said["predicted"] is True
    assert said["ceilings"]["gb_per_s"] == 410
    assert said["weight_bytes"] == 15_231_233_024
    assert [row["positions"] for row in said["forwards"]] == [2**power for power in range(10)]
    assert {row["chip"] for row in said["published"]} == {"Apple M4 Max"}
    assert all(row["close"] for row in said["published"])


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac is in the table")
def test_the_card_of_an_unknown_chip_says_so_and_measures_its_ceilings():
    done = diffucode("bench", "--card", "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert "not in the table" in done.stderr
    assert said["ceilings"]["source"].startswith("measured here")
    assert said["ceilings"]["bandwidth"] > 1e8
    assert said["ceilings"]["flops"] > 1e8
    shown = diffucode("bench", "--card").stdout
    for unit in ("GB\n", "GB/s", "TFLOP/s"):
        assert unit in shown


def test_what_cannot_be_predicted_is_one_line():
    assert_one_line(diffucode("bench", "--predict", "M6"), "'M6'", "M5 Max", "--predict here")
    assert_one_line(diffucode("bench", "--predict", "M5", "--bits", 7), "--bits", "not 7")
    assert_one_line(diffucode("bench", "--predict", "M5", "--measure"), "--measure", "here")
    assert_one_line(diffucode("bench", "--predict", "M5", "--nfe", 3), "--positions")
    assert_one_line(diffucode("bench", "--predict", "M5", "--nfe", 3, "--positions", 2), "--positions", "not 2")
    assert_one_line(diffucode("bench"), "--card", code=2)
    assert_one_line(diffucode("bench", "--card", "--predict", "M5"), "--card", code=2)
