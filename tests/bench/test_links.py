"""What a link between Macs makes of the prediction."""

import json

import pytest

from mlx_diffucoder.bench.ceilings import ceilings_named
from mlx_diffucoder.bench.links import predict_hosts
from mlx_diffucoder.bench.roofline import work_of
from mlx_diffucoder.bench.shapes import SHAPES

from ..cli.command import assert_one_line, diffucode


@pytest.mark.parametrize(("link", "least", "most"), [("tb5", 1.5, 1.9), ("tbtcp", 0.9, 1.1), ("10gbe", 0.7, 0.95)])
def test_a_second_mac_helps_over_a_fast_link_only(link, least, most):
    done = diffucode("bench", "predict", "M3 Max 40", "--hosts", 2, "--link", link, "--json")
    together = json.loads(done.stdout)["together"]
    forward = next(one for one in together["forwards"] if one["rows"] == 32)
    assert least < forward["times_faster"] < most
    # 56 sums of the layers, 2 of embeddings and last states, and the logits; 32 rows of 2 bytes a number.
    latency, bandwidth = {"tb5": (10e-6, 6.9e9), "tbtcp": (300e-6, 3e9), "10gbe": (300e-6, 1.25e9)}[link]
    assert forward["exchanges"] == pytest.approx(59 * latency + 64 * (58 * 3584 + 152064 / 2) / bandwidth)


def test_what_cannot_be_predicted_is_one_line():
    predict = ("bench", "predict", "M3 Max 40")
    assert_one_line(diffucode(*predict, "--hosts", 2, "--link", "wifi"), "--link must be one of tb5", code=2)
    assert_one_line(diffucode(*predict, "--link", "tb5"), "--link has no effect without --hosts", code=2)
    text = diffucode(*predict, "--hosts", 3).stdout
    assert "PREDICTED, not measured: 3 of these together" in text
    assert "--shard tensor: so many do not divide the model's K/V heads\n--shard sequence\nrows " in text


def test_dividing_rows_helps_above_one_tile_only_and_exchanges_half_as_often():
    found = predict_hosts(ceilings_named("M3 Max 40"), work_of("7b", 4), SHAPES["7b"].config, 2, "tbtcp")
    tensor, sequence = ({one["rows"]: one for one in found[key]} for key in ("forwards", "sequence"))
    assert sequence[32]["times_faster"] == 1 and sequence[32]["exchanges"] == 0
    assert 1.1 < sequence[64]["times_faster"] < 2 and sequence[64]["times_faster"] > tensor[64]["times_faster"]
    # The K/V of 28 layers, 4 heads of 128 numbers of 2 bytes, and the last states of 3584; half of them are the other's.
    assert sequence[64]["exchanges"] == pytest.approx(29 * 300e-6 + 64 * (28 * 2 * 4 * 128 + 3584) / 3e9)
