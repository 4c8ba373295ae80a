"""Confidence intervals of means and of ratios."""

from math import isnan

import numpy as np
import pytest

from mlx_diffucoder.evaluation import confidence_interval
from mlx_diffucoder.statistics import ratio_intervals


def test_intervals_of_ratios_are_those_of_means_where_all_weigh_the_same():
    scores = np.random.default_rng(1).normal(size=40)
    (both,) = ratio_intervals(scores[:, None], np.ones((40, 1)))
    assert both == pytest.approx(confidence_interval(scores), abs=0.01)


def test_an_interval_of_nothing_is_not_a_number():
    ((low, high),) = ratio_intervals(np.zeros((3, 1)), np.zeros((3, 1)))
    assert isnan(low) and isnan(high)
