"""What a link between Macs makes of the prediction."""

import json

import pytest

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
    assert_one_line(diffucode(*predict, "--hosts", 3), "--hosts must divide the model's 4 K/V heads", code=2)
    assert_one_line(diffucode(*predict, "--link", "tb5"), "--link has no effect without --hosts", code=2)
    text = diffucode(*predict, "--hosts", 4).stdout
    assert "PREDICTED, not measured: 4 of these together" in text
