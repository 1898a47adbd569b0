import pytest
import torch
from scipy.stats import binomtest

from stages.metrics.score import score, share


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (3, 7), (640, 1000), (1, 1)])
def test_the_interval_is_wilsons(successes, count):
    ours, theirs = share(successes, count), binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.low <= ours.value == successes / count <= ours.high


@pytest.mark.parametrize("truth", [0.03, 0.6])
def test_the_interval_holds_the_truth_as_often_as_it_says(truth):
    """Exact coverage from the binomial law at n = 80, which Wilson keeps near 95 %."""
    n = 80
    hits = [s for s in range(n + 1) if share(s, n).low <= truth <= share(s, n).high]
    law = torch.distributions.Binomial(n, torch.tensor(truth, dtype=torch.float64))
    held = law.log_prob(torch.tensor(hits, dtype=torch.float64)).exp().sum().item()
    assert held == pytest.approx(0.95, abs=0.025)


def test_overall_and_by_attribute():
    measured = torch.tensor([[7, 2, 0], [7, 1, 0], [3, 2, 1], [7, 2, 1]])
    result = score(measured == torch.tensor([7, 2, 0]), ["digit", "weight", "slant"])
    assert result.overall.value == 0.25
    assert {name: s.value for name, s in result.accuracy.items()} == {"digit": 0.75, "weight": 0.75, "slant": 0.5}
    assert result.overall.count == 4


def test_bad_counts_and_shapes_are_refused():
    with pytest.raises(ValueError, match="got 0 of 0"):
        share(0, 0)
    with pytest.raises(ValueError, match="got 3 of 2"):
        share(3, 2)
    with pytest.raises(ValueError, match=r"verdict of shape \(4, 3\) must be \[N, 2\]"):
        score(torch.zeros(4, 3, dtype=torch.bool), ["digit", "slant"])
