"""`diffucode models`: what is listed, what fits, and what is predicted."""

import json

import pytest

from mlx_diffucoder.catalogue import CATALOGUE
from mlx_diffucoder.hub import parse_id
from mlx_diffucoder.models import FAMILIES

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


def test_json_has_the_sizes_that_convert_would_write():
    said = json.loads(diffucode("models", "--json", "--chip", "M4 Pro").stdout)
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
