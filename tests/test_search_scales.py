"""Each scale spends equal mass where it says it does, and its inverse is its inverse."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from bnlab import UserError
from bnlab.search import log_uniform, log_uniform_integer, one_minus_log_uniform, uniform, uniform_integer

NUM_DRAWS = 20_000
P_MIN = 0.01  # the seeds are fixed: a right scale passes always, a wrong one has p far below 1e-100


def draws(scale, seed):
    generator = np.random.default_rng(seed)
    return np.array([scale.sample(generator) for _ in range(NUM_DRAWS)])


def test_uniform_draws_are_uniform():
    assert kstest(draws(uniform(-2, 3), 0), "uniform", args=(-2, 5)).pvalue > P_MIN


def test_log_draws_put_equal_mass_in_each_decade():
    values = draws(log_uniform(1e-4, 1), 1)
    counts = np.histogram(values, bins=[1e-4, 1e-3, 1e-2, 1e-1, 1])[0]
    assert chisquare(counts).pvalue > P_MIN
    assert kstest(np.log10(values), "uniform", args=(-4, 4)).pvalue > P_MIN


def test_linear_draws_would_fail_the_decade_test():
    counts = np.histogram(draws(uniform(1e-4, 1), 1), bins=[1e-4, 1e-3, 1e-2, 1e-1, 1])[0]
    assert counts[-1] / NUM_DRAWS == pytest.approx(0.9, abs=0.01)  # the course's point
    assert chisquare(counts).pvalue < 1e-100


def test_one_minus_log_draws_spend_as_much_on_either_side_of_099():
    values = draws(one_minus_log_uniform(0.9, 0.999), 2)
    assert chisquare(np.histogram(values, bins=[0.9, 0.99, 0.999])[0]).pvalue > P_MIN
    assert kstest(np.log10(1 - values), "uniform", args=(-3, 2)).pvalue > P_MIN
    assert values.min() >= 0.9
    assert values.max() <= 0.999


def test_integers_cover_both_ends_evenly():
    values = draws(uniform_integer(2, 4), 3).astype(int)
    assert set(values) == {2, 3, 4}
    assert chisquare(np.bincount(values)[2:]).pvalue > P_MIN


def test_log_integers_spread_the_exponent_and_give_the_ends_whole_cells():
    values = draws(log_uniform_integer(1, 8), 4).astype(int)
    edges = np.log(np.arange(1, 10) - 0.5)
    expected = np.diff(edges) / (edges[-1] - edges[0]) * NUM_DRAWS
    assert chisquare(np.bincount(values, minlength=9)[1:], expected).pvalue > P_MIN


@pytest.mark.parametrize(
    "scale",
    [uniform(-1, 3), log_uniform(1e-7, 50), one_minus_log_uniform(0, 0.9999), one_minus_log_uniform(0.5, 0.99)],
    ids=str,
)
def test_position_inverts_value(scale):
    for r in np.linspace(0, 1, 101):
        assert scale.position(scale.value(r)) == pytest.approx(r, abs=1e-9)
    assert scale.value(0) == pytest.approx(scale.low, rel=1e-12, abs=1e-15)
    assert scale.value(1) == pytest.approx(scale.high, rel=1e-12)


@pytest.mark.parametrize("scale", [uniform_integer(0, 7), log_uniform_integer(1, 512)], ids=str)
def test_value_inverts_position_exactly_for_integers(scale):
    for value in range(scale.low, scale.high + 1):
        assert scale.value(scale.position(value)) == value
    assert (scale.value(0), scale.value(1)) == (scale.low, scale.high)
    assert type(scale.value(0.5)) is int


def test_closed_forms():
    assert log_uniform(1e-4, 1).value(0.5) == pytest.approx(1e-2, rel=1e-12)
    assert one_minus_log_uniform(0.9, 0.999).value(0.5) == pytest.approx(0.99, rel=1e-12)
    assert uniform(2, 4).value(0.25) == 2.5
    assert one_minus_log_uniform(0.9, 0.999).value(0.25) < one_minus_log_uniform(0.9, 0.999).value(0.75)


@pytest.mark.parametrize(
    ("scale", "low", "high", "rule"),
    [
        (log_uniform, 0, 1, "both ends > 0"),
        (log_uniform, -1, 1, "both ends > 0"),
        (log_uniform_integer, 0, 8, "both ends > 0"),
        (one_minus_log_uniform, 0.9, 1, r"both ends in \[0, 1\)"),
        (one_minus_log_uniform, -0.1, 0.9, r"both ends in \[0, 1\)"),
        (uniform, 3, 1, "lower to its higher end"),
        (uniform, 1, 1, "lower to its higher end"),
        (uniform, 0, math.inf, "finite ends"),
        (uniform, math.nan, 1, "finite ends"),
        (uniform_integer, 1.5, 3, "integer ends"),
    ],
)
def test_impossible_ends_state_the_rule_and_the_value(scale, low, high, rule):
    with pytest.raises(UserError, match=rule) as caught:
        scale(low, high)
    assert f"{low:g} to {high:g}" in str(caught.value)


def test_scales_draw_from_the_standard_library_too():
    assert 1e-4 <= log_uniform(1e-4, 1).sample(random.Random(0)) <= 1


def test_scales_import_no_optuna_no_hydra_no_torch():
    code = (
        "import sys, bnlab; bnlab.search.log_uniform(1e-4, 1); "
        "print([name for name in ('optuna', 'hydra', 'torch', 'numpy') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
