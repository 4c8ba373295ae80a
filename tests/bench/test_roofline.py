"""The prediction: its arithmetic by hand, and how close it is to what others published."""

from dataclasses import replace
from statistics import median

import pytest

from bench.studies import budgets
from bench.studies.published import without_chip
from mlx_diffucoder import DiffusionModel, ModelConfig
from mlx_diffucoder.bench.ceilings import Ceilings, ceilings_named, table
from mlx_diffucoder.bench.roofline import (
    Work,
    break_even,
    checks,
    evidence_of,
    forward_seconds,
    generation_seconds,
    predict,
)
from mlx_diffucoder.bench.shapes import SHAPES, bits_per_weight
from mlx_diffucoder.config import PRESETS
from mlx_diffucoder.files import read_json

from ..conftest import DATA

# 100 bytes/s, 1000 operations/s: 50 weights of 16 bits take a second to read, and 0.1 s a position to multiply.
SLOW = Ceilings(chip="abacus", bandwidth=100, flops=1000, source="made up")
FIFTY = Work(parameters=50, bits_per_weight=16)
SEVEN = Work(parameters=7_070_619_136, bits_per_weight=4.5)  # the 7B without its embeddings


def test_a_forward_takes_the_longer_of_reading_and_multiplying():
    assert [forward_seconds(SLOW, FIFTY, count) for count in (1, 10, 20)] == pytest.approx([1, 1, 2])
    assert generation_seconds(SLOW, FIFTY, nfe=4, positions=80) == pytest.approx(8)


def test_a_prediction_says_that_it_is_one_and_names_its_evidence():
    said = predict(SLOW, FIFTY)
    assert said["predicted"] is True
    assert {row["evidence"] for row in said["forwards"]} == {"the ceilings measured here; tiles are not known"}
    assert said["autoregressive_tokens_per_second"] == pytest.approx(1)


# Computed by hand from the same rates, for DiffuCoder-7B without its embeddings: ms of 1 row at 4 bits, of 32, 33 and 65 rows.
@pytest.mark.parametrize(
    ("chip", "one", "tile", "two", "three"),
    [
        ("M1 8", 65, 254, 507, 761),
        ("M2 Pro 16", 22, 114, 228, 342),
        ("M3 Max", 11, 44, 88, 133),
        ("M4 Max", 8, 37, 74, 112),
        ("M5", 29, 114, 189, 196),
        ("M5 Max", 7, 28, 47, 49),
    ],
)
def test_a_forward_costs_a_staircase_of_tiles_on_an_apple_gpu(chip, one, tile, two, three):
    ceilings = replace(ceilings_named(chip), overhead=0)
    took = {rows: 1e3 * forward_seconds(ceilings, SEVEN, rows) for rows in (1, 8, 9, 10, 16, 31, 32, 33, 64, 65)}
    assert [took[rows] for rows in (1, 32, 33, 65)] == pytest.approx([one, tile, two, three], rel=0.03)
    assert took[10] == took[16] == took[31] == took[32]
    assert took[33] == took[64]
    assert took[1] <= took[8] <= took[9] <= took[10]
    evidence = [evidence_of(ceilings.chip, rows) for rows in took if rows > 1]
    assert all("measured" in one or "computed" in one for one in evidence)


def test_few_rows_cost_what_was_measured_on_an_m3_max_and_a_row_each_where_the_kernels_are_narrow():
    m3, m1 = (replace(ceilings_named(chip), overhead=0) for chip in ("M3 Max", "M1 Max"))
    assert forward_seconds(m3, SEVEN, 8) / forward_seconds(m3, SEVEN, 1) == pytest.approx(0.323 / 0.129, rel=0.05)
    assert forward_seconds(m1, SEVEN, 3) == pytest.approx(3 * forward_seconds(m1, SEVEN, 1))


@pytest.mark.parametrize(("chip", "slower"), [("M1 Max", 1.78), ("M2", 1.78), ("M3", 1), ("M5", 1)])
def test_bfloat16_is_slower_where_it_is_emulated_and_more_than_one_row_is_multiplied(chip, slower):
    ceilings = replace(ceilings_named(chip), overhead=0)
    one, tile = (
        forward_seconds(ceilings, SEVEN, rows, bfloat16=True) / forward_seconds(ceilings, SEVEN, rows) for rows in (1, 32)
    )
    assert (one, tile) == pytest.approx((1, slower))


def test_a_shapes_parameters_are_those_of_the_network():
    assert SHAPES["7b"].config.parameters == 7_615_616_512  # 15,231,233,024 bytes of bfloat16 on the Hub
    for name in ("dream-a", "dream-b"):  # the second ties its embeddings
        config = ModelConfig.from_dict(read_json(DATA / name / "config.json"))
        model = DiffusionModel(config)
        assert config.parameters == sum(value.size for value in dict(flat(model.parameters())).values())
    assert [bits_per_weight(bits) for bits in (4, 8, 16)] == [4.5, 8.5, 16]


def flat(tree):
    from mlx.utils import tree_flatten

    return tree_flatten(tree)


def test_published_speeds_are_reproduced_within_25_percent_on_the_same_model():
    found = list(checks())
    assert len(found) == sum(("prompt" in row) + ("generate" in row) for row in table()["published"])
    for check in found:
        # The M5's row is of another 7B: it is off, and its line says by how much.
        assert (abs(check.error) <= 0.25) == (check.source != "m5-base"), check.line()
        assert ("off by more than 25%" in check.line()) == (check.source == "m5-base")


@pytest.mark.parametrize(
    ("chip", "what", "bits", "published"),
    [
        ("Apple M4 Max", "prompt", 16, 923),
        ("Apple M4 Max", "generate", 16, 31.6),
        ("Apple M4 Max", "prompt", 4.5, 886),
        ("Apple M4 Max", "generate", 4.5, 83.1),
        ("Apple M1 Max", "prompt", 16, 600),
        ("Apple M1 Max", "generate", 16, 23.0),
        ("Apple M5 Max", "prompt", 4.5, 3220),
        ("Apple M5 Max", "generate", 4.5, 119.9),
    ],
)
def test_the_table_holds_what_was_published(chip, what, bits, published):
    check = next(check for check in checks(chip) if (check.what, check.bits) == (what, bits))
    assert check.published == published
    assert check.predicted == pytest.approx(published, rel=0.15)


def test_a_chips_prompt_speed_follows_from_the_other_chips_of_its_generation():
    """The rates are fitted to these rows; without the chip's own they are nearly the same."""
    rates = {}
    for row in table()["published"]:
        if "prompt" in row and row["source"] != "m5-base":
            rates.setdefault(row["chip"].split()[1], {}).setdefault(row["chip"], []).append(row["prompt"] / row["gpu_cores"])
    for chips in rates.values():
        for chip, own in chips.items():
            others = [rate for name, found in chips.items() if name != chip for rate in found]
            assert all(median(others) == pytest.approx(rate, rel=0.25) for rate in own), chip


def test_break_even_is_what_the_published_speeds_give():
    work = Work(parameters=SHAPES["7b"].config.parameters, bits_per_weight=4.5)
    # Tokens/s of llama.cpp's prompt and generation at 4.5 bits: the time of 32 prompt tokens over that of one generated.
    for chip, prompt, generate in (("M1 Max", 530, 61.2), ("M2", 180, 21.9), ("M4 Max", 886, 83.1)):
        assert break_even(ceilings_named(chip), work) == pytest.approx(32 / prompt * generate, rel=0.25)
    assert forward_seconds(ceilings_named("M4 Max"), work, 512) == pytest.approx(0.63, rel=0.05)


def test_speeds_without_a_chip_are_listed_for_the_chips_that_could_be_it():
    lines = list(without_chip(SHAPES["7b"].config.parameters))
    assert any(line.startswith("M4 Pro: ") for line in lines)
    assert not any(line.startswith(("M1: ", "M5 Max: ")) for line in lines)
    assert "not predicted" in lines[-1]


def test_the_rows_of_the_preset_cost_least_on_every_chip():
    found = list(budgets.costs())
    assert len({chip for chip, _, _ in found}) == len(table()["chips"])
    assert PRESETS["balanced"]["window"] == f"tree:rows={budgets.DEFAULT}"
    for _, _, by_rows in found:
        assert min(by_rows, key=by_rows.__getitem__) == budgets.DEFAULT
        assert min(one for rows, one in by_rows.items() if rows != budgets.DEFAULT) > 1.25
