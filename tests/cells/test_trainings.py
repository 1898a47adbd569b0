"""Numbers of a method from those of its trainings."""

import pytest

from stages.cells.trainings import together
from stages.core.trainings import spread
from stages.metrics.score import share

NUM = 40


def trained(right: int, distance: float) -> dict[str, float]:
    found = share(right, NUM)
    return {
        "nfe": 8, "parameters": 1000, "training_network_evaluations": 64.0, "frechet_distance": distance,
        "score_seen": found.value, "score_seen_low": found.low, "score_seen_high": found.high,
    }  # fmt: skip


def test_a_single_training_is_what_it_is():
    assert together([trained(20, 3.0)], NUM) == (trained(20, 3.0), {})


def test_of_several_there_are_means_and_their_spreads():
    means, spreads = together([trained(20, 3.0), trained(30, 4.0), trained(31, 8.0)], NUM)
    assert means["frechet_distance"] == pytest.approx(5.0)
    assert means["score_seen"] == pytest.approx(81 / 120)
    assert spreads == {
        "frechet_distance": spread([3.0, 4.0, 8.0]),
        "score_seen": spread([20 / NUM, 30 / NUM, 31 / NUM]),
    }, "what a model is and costs has no spread"


def test_the_interval_over_samples_is_that_of_all_samples():
    means, _ = together([trained(20, 3.0), trained(30, 4.0)], NUM)
    pooled = share(50, 2 * NUM)
    assert (means["score_seen_low"], means["score_seen_high"]) == (pooled.low, pooled.high)


def test_what_is_equal_in_all_stays_as_it_is():
    means, _ = together([trained(20, 3.0), trained(30, 4.0)], NUM)
    assert type(means["nfe"]) is int
    assert list(means) == list(trained(20, 3.0))
