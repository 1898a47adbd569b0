"""Named numbers of a verifier's judgement, on samples arranged by hand."""

import pytest
import torch

from stages.core.prompts import Prompt
from stages.metrics.judgement import against_mixture, correctness, likeness
from stages.models.mixture import GaussianMixture
from stages.models.verifier import MixtureVerifier

TRUTH = GaussianMixture(torch.full((2,), 0.5), torch.tensor([[0.0, 0.0], [10.0, 0.0]]), torch.tensor([1.0, 2.0]))


def points(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(rows)[..., None, None]


def test_correctness_counts_what_the_posterior_finds():
    images = points((0, 0), (10, 0), (9, 1), (1, 0))
    asked = [Prompt(f"component {k}", {"component": str(k)}) for k in (0, 1, 0, 0)]
    found = correctness(MixtureVerifier(TRUTH), images, asked, "seen")
    assert found["score_seen"] == found["accuracy_seen_component"] == 0.75
    assert found["score_seen_low"] < 0.75 < found["score_seen_high"]


def test_prompts_of_a_task_have_a_score_of_their_own():
    images, tasks = points((0, 0), (10, 0), (9, 1), (1, 0)), ["near", "far", "far", "near"]
    asked = [Prompt("", {"component": "0", "task": task}) for task in tasks]
    found = correctness(MixtureVerifier(TRUTH), images, asked, "seen")
    assert (found["score_seen_of_near"], found["score_seen_of_far"], found["score_seen"]) == (1, 0, 0.5)


def test_a_prompt_whose_facts_are_silent_is_named():
    with pytest.raises(ValueError, match=r"prompt 'something': its facts do not say all of component"):
        correctness(MixtureVerifier(TRUTH), points((0, 0)), [Prompt("something")], "seen")


def test_errors_of_moments_are_what_arithmetic_gives():
    # component 0: mean (1, 0), deviations (-1, 0), (1, 0): variances 2 and 0, mean 1, so std 1 as it should be
    # component 1: mean (10, 3), deviations (0, -4), (0, 4): variances 0 and 32, mean 16, so std 4 and not 2
    images, component = points((0, 0), (2, 0), (10, -1), (10, 7)), torch.tensor([0, 0, 1, 1])
    shifted = (images + torch.tensor([3.0, 0])[:, None, None], component)
    found = against_mixture(TRUTH, (images, component), shifted)
    assert found["mean_error"] == pytest.approx(((1 + 0) / 2 + (0 + 3) / 2) / 2)
    assert found["std_error"] == pytest.approx((0 + 2) / 2)
    # 2 E|X - Y| - E|X - X'| - E|Y - Y'|: component 0 is 2 x (3 + 5 + 1 + 3) / 4 - 2 - 2, component 1 has 8 between
    assert found["energy_distance"] == pytest.approx((2.0 + (3 + 73**0.5 - 16)) / 2)


def test_errors_of_the_law_are_what_arithmetic_gives():
    # component 0 is N((0, 0), 1), component 1 N((10, 0), 2^2): one of three that asked for 0 lies in 1
    images, component = points((0, 1), (0, -1), (10, 0), (10, 2), (10, -2)), torch.tensor([0, 0, 0, 1, 1])
    found = against_mixture(TRUTH, (images, component), (images + 1, component))
    assert found["wasserstein2"] == pytest.approx(2**0.5)
    assert found["weight_error"] == pytest.approx(1 / 5)
    # mean squared distances over variances: (1 + 1 + 100) / 3 and 1, where 2 are expected
    assert found["nll_error"] == pytest.approx((32 + 1) / 2 / 2)


def test_moments_of_single_samples_are_refused():
    with pytest.raises(ValueError, match="draw more"):
        against_mixture(TRUTH, (points((0, 0)), torch.tensor([0])), (points((0, 0), (1, 1)), torch.tensor([0, 0])))


def test_likeness_takes_the_real_images_for_real():
    real = points(*((float(i), float(i % 3)) for i in range(12)))
    one_spot = points(*((0.01 * i, 0.0) for i in range(12)))
    found = likeness(MixtureVerifier(TRUTH), one_spot, real, k=2)
    assert found["precision"] == 1
    assert found["recall"] < 0.2
    assert found["frechet_distance"] > 1
