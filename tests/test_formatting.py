"""Sizes and durations as text."""

import pytest

from mlx_diffucoder.formatting import format_bytes, format_seconds, format_spread


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.00 MB"),
        (90_000, "0.09 MB"),
        (2_560_000, "2.56 MB"),
        (9_996_000, "10.0 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.00 GB"),
        (4_280_000_000, "4.28 GB"),
        (15_231_000_000, "15.2 GB"),
        (137_438_953_472, "137 GB"),
        (2_000_000_000_000, "2000 GB"),
    ],
)
def test_sizes_have_three_digits_and_mb_below_one_gb(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 ms"),
        (0.0123, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (83.21, "83.2 s"),
        (3600, "3600 s"),
    ],
)
def test_durations_have_three_digits_and_ms_below_one_second(seconds, text):
    assert format_seconds(seconds) == text


def test_a_spread_is_in_the_unit_of_its_median():
    assert format_spread(0.0123, 0.012, 0.0131) == "12.30 ms (12.00 to 13.10)"
    assert format_spread(1.5, 0.9, 2.25) == "1.50 s (0.90 to 2.25)"
