"""Intervals hold the truth as often as they say, also for few users; the laws are those of the
benchmark.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from recbench.evaluate import bootstrap_interval, paired_interval
from recbench.evaluate.ranking import calibration_table

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from interval_coverage import ONE, TWO, USERS, coverage  # noqa: E402


@pytest.mark.parametrize("users", USERS)
@pytest.mark.parametrize("name", [f"one: {name}" for name in ONE] + [f"two: {name}" for name in TWO])
def test_coverage(name, users):
    draw, truth, share = (ONE if name.startswith("one") else TWO)[name[5:]]
    held = coverage(draw, truth, users, studies=1500, draws=300)
    assert held > 0.91 and (
        held < 0.985 or share * users < 5
    ), f"{held:.1%} of 95 % intervals hold the truth"


def test_one_user_who_tells_proves_nothing():
    a, b = np.zeros(20), np.zeros(20)
    a[0] = 1
    mean, low, high = paired_interval(a, b)
    assert mean == 0.05 and low < -0.05 < 0.2 < high
    mean, low, high = paired_interval(b, b)
    np.testing.assert_allclose([mean, low, high], [0, -0.1611, 0.1611], atol=1e-3)
    assert (
        bootstrap_interval(b)[2] > 0.15
        and bootstrap_interval(b)[1] == 0
        and bootstrap_interval(np.ones(20))[1] < 0.85
    )


def test_columns_are_judged_one_by_one():
    rng = np.random.default_rng(0)
    values = np.stack([rng.random(500) < 0.4, rng.random(500) < 0.01, rng.normal(3, 1, 500)], 1).astype(
        float
    )
    together = bootstrap_interval(values, draws=200)
    for column in range(3):
        np.testing.assert_allclose(
            [part[column] for part in together], bootstrap_interval(values[:, column], draws=200)
        )
    apart = paired_interval(values, values[::-1], draws=200)
    for part, turned in zip(apart, paired_interval(values[::-1], values, draws=200)):
        assert part.shape == turned.shape == (3,)
    assert bootstrap_interval([0.5])[1:] == (0, 1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_the_mean_lies_inside_whatever_the_last_bit(value):
    for users in range(1, 200):
        mean, low, high = bootstrap_interval(np.full(users, value), draws=50)
        assert low <= mean <= high
        table = calibration_table(np.full(users, 0.3), np.full(users, round(value)), 1)
        assert (table["low"] <= table["observed"]).all() and (table["observed"] <= table["high"]).all()
