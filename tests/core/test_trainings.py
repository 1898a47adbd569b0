"""What trainings tell, against closed forms and SciPy's own tests."""

import math

import pytest
from scipy import stats

from stages.core.trainings import Spread, compared, fisher, spread, student, welch

ONE, OTHER = [0.70, 0.74, 0.69, 0.77], [0.62, 0.71, 0.66]


def test_two_trainings_have_the_interval_of_cauchys_law():
    """With one degree of freedom t is Cauchy's: its 97.5 % quantile is tan(0.475 pi)."""
    found = spread([1.0, 3.0])
    assert (found.mean, found.count) == (2.0, 2)
    assert found.deviation == pytest.approx(math.sqrt(2))
    assert found.reach == pytest.approx(math.tan(0.475 * math.pi))
    assert (found.low, found.high) == (found.mean - found.reach, found.mean + found.reach)


def test_the_interval_is_students():
    found = spread(ONE)
    low, high = stats.t.interval(0.95, len(ONE) - 1, loc=found.mean, scale=stats.sem(ONE))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_single_training_has_no_spread():
    with pytest.raises(ValueError, match="two or more, got 1"):
        spread([0.7])


@pytest.mark.parametrize("other", [OTHER, ONE, [0.1, 0.1001], [0.7, 0.9, 0.1, 0.5, 0.6]])
def test_the_difference_is_welchs(other):
    expected = stats.ttest_ind(ONE, other, equal_var=False).pvalue
    assert welch(spread(ONE), spread(other)) == pytest.approx(expected)
    assert welch(spread(other), spread(ONE)) == pytest.approx(expected)


def test_a_mean_that_is_known_is_students():
    assert student(spread(ONE), 0.66) == pytest.approx(stats.ttest_1samp(ONE, 0.66).pvalue)
    assert (student(spread([1.0, 1.0]), 1.0), student(spread([1.0, 1.0]), 0.9)) == (1, 0)


@pytest.mark.parametrize("other", [OTHER, [0.1, 0.1001], [0.7, 0.9, 0.1, 0.5, 0.6]])
def test_deviations_are_compared_by_fishers_test(other):
    ratio = stats.tvar(ONE) / stats.tvar(other)
    law = stats.f(len(ONE) - 1, len(other) - 1)
    assert fisher(spread(ONE), spread(other)) == pytest.approx(2 * min(law.cdf(ratio), law.sf(ratio)))
    assert fisher(spread(other), spread(ONE)) == pytest.approx(fisher(spread(ONE), spread(other)))
    assert (fisher(spread(ONE), spread([1.0, 1.0])), fisher(spread([1.0, 1.0]), spread([2.0, 2.0]))) == (0, 1)


def test_trainings_that_all_came_to_the_same():
    one, other = spread([1.0, 1.0, 1.0]), spread([0.5, 0.5])
    assert welch(one, one) == 1
    assert welch(one, other) == 0
    around = spread([0.003] * 3)  # whose sum, divided by three, is another number
    assert around.low == around.mean == around.high == 0.003


def test_what_is_said_of_two_methods():
    one, other = spread([0.70, 0.71, 0.69]), spread([0.60, 0.61, 0.59])
    assert compared(one, other) == "differ (p = 0.00026 over 3 and 3 trainings)"
    assert compared(one, spread([0.6, 0.8])) == "cannot be told apart (p = 1 over 3 and 2 trainings)"
    assert compared(None, None) == "one training each: trainings cannot be compared, samples only"
    assert compared(one, None) == "one training on a side: trainings cannot be compared, samples only"


def test_ends_may_lie_beyond_what_a_share_can_be():
    assert Spread(mean=0.9, deviation=0.2, count=2).high > 1
