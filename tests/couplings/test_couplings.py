import math
from itertools import pairwise

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from stages.core.rng import stream
from stages.couplings import COUPLINGS, couple
from stages.couplings.minibatch_ot import assignment, squared_distances
from stages.couplings.semidiscrete_ot import cells, potential

pytestmark = pytest.mark.slow


def pairs(n=64, dim=3, *, std=0.4, mean=0.7):
    noise = torch.randn(n, dim, 1, generator=stream(0, "noise"))
    x0 = mean + std * torch.randn(n, dim, 1, generator=stream(0, "data"))
    return noise, x0, torch.arange(n)


def coupled(name, batch=16, n=64, dim=3):
    return couple(*pairs(n, dim), name=name, batch=batch, rng=stream(3, "couple"))


@pytest.mark.parametrize("name", COUPLINGS)
def test_contract_of_every_coupling(name):
    noise, x0, prompts = pairs()
    before = torch.get_rng_state()
    same_noise, moved, labels = coupled(name)
    assert torch.equal(same_noise, noise)
    assert torch.equal(moved, x0[labels]), "the prompt goes with its sample"
    assert set(labels.tolist()) <= set(prompts.tolist())
    assert torch.equal(labels, coupled(name)[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["teacher_ode", "independent", "minibatch_ot"])
def test_a_permutation_uses_every_sample_once(name):
    assert torch.equal(coupled(name)[2].sort().values, torch.arange(64))


def shares(noise, targets, h):
    return cells(noise, targets, h).bincount(minlength=len(targets)) / len(noise)


@pytest.mark.parametrize(
    ("targets", "thresholds"),
    [([-1.0, 1.0], [0.0]), ([-1.0, 0.2, 3.0], [-0.4307, 0.4307]), ([5.0, -2.0], [0.0])],
)
def test_cells_on_a_line_end_at_the_noises_quantiles_wherever_the_targets_are(targets, thresholds):
    y = torch.tensor(targets)[:, None]
    h = potential(y, stream(0, "h"))
    line = torch.linspace(-3, 3, 6001)[:, None]
    ends = line[:-1].flatten()[cells(line, y, h).diff() != 0]
    assert ends.tolist() == pytest.approx(thresholds, abs=0.03)
    assert torch.equal(cells(line, y, h + 7.0), cells(line, y, h)), "only differences of heights matter"


def test_cells_have_equal_shares_of_noise_that_was_never_seen():
    y = 0.7 + 0.4 * torch.randn(16, 3, generator=stream(0, "y")) ** 3
    noise = torch.randn(100_000, 3, generator=stream(1, "e"))
    found = shares(noise, y, potential(y, stream(2, "h")))
    assert found.tolist() == pytest.approx([1 / 16] * 16, rel=0.12)
    assert shares(noise, y, torch.zeros(16)).max() > 2 / 16


def test_any_heights_pair_at_least_cost_for_the_shares_that_they_make():
    """Exact: against the optimal assignment of the same noises to as many copies of each target."""
    y, noise = (torch.randn(n, 2, generator=stream(n, "x")) for n in (6, 60))
    h = torch.linspace(-1, 1, 6)
    chosen = cells(noise, y, h)
    copies = y[chosen]
    cost = squared_distances(noise, copies).numpy()
    rows, columns = linear_sum_assignment(cost)
    assert cost.diagonal().sum() == pytest.approx(cost[rows, columns].sum(), rel=1e-6)


def test_semidiscrete_pairs_stay_in_their_batch_and_use_each_sample_about_once():
    noise, x0, _ = pairs(256, 2)
    labels = couple(noise, x0, torch.arange(256), name="semidiscrete_ot", batch=64, rng=stream(3, "couple"))[2]
    chance = couple(noise, x0, torch.arange(256), name="independent", batch=64, rng=stream(3, "couple"))[2]
    for row in torch.arange(256).split(64):
        assert set(labels[row].tolist()) <= set(chance[row].tolist())
    counts = labels.bincount(minlength=256)
    # Poisson's law of mean 1: e^-1 of the samples are not used
    assert (counts == 0).double().mean().item() == pytest.approx(math.exp(-1), abs=0.08)
    assert (noise - x0[labels]).square().sum() < 0.8 * (noise - x0[chance]).square().sum()


def test_teacher_pairs_stay_and_independent_pairs_do_not():
    assert torch.equal(coupled("teacher_ode")[2], torch.arange(64))
    labels = coupled("independent", n=2000, dim=1)[2]
    assert (labels == torch.arange(2000)).sum() < 10


def test_independent_pairs_are_uncorrelated_whatever_they_were():
    noise = torch.randn(4000, 1, generator=stream(0, "noise"))
    rows = torch.arange(4000)
    _, x0, _ = couple(noise, noise.clone(), rows, name="independent", batch=1, rng=stream(1, "c"))
    assert abs(torch.corrcoef(torch.cat([noise, x0], 1).T)[0, 1]) < 4 / math.sqrt(4000)


def test_a_batch_of_one_is_independent():
    assert torch.equal(coupled("minibatch_ot", batch=1)[2], coupled("independent")[2])


@pytest.mark.parametrize("batch", [2, 16, 24, 64])
def test_transport_never_costs_more_in_any_batch(batch):
    noise, drawn, _ = coupled("independent")
    _, moved, labels = coupled("minibatch_ot", batch=batch)
    chance = coupled("independent")[2]
    gains = []
    for row in torch.arange(64).split(batch):
        assert set(labels[row].tolist()) == set(chance[row].tolist()), "samples stay in their batch"
        costs = [(noise[row] - x0[row]).square().sum() for x0 in (moved, drawn)]
        assert costs[0] <= costs[1] + 1e-5
        gains.append(costs[1] - costs[0])
    assert max(gains) > 1


def test_the_assignment_is_the_optimal_one():
    noise, x0, _ = pairs(40, 2)
    cost = squared_distances(noise, x0).numpy()
    rows, columns = linear_sum_assignment(cost)
    chosen = assignment(noise, x0)
    assert torch.equal(chosen, torch.from_numpy(columns))
    assert cost[rows, columns].sum() == pytest.approx((noise - x0[chosen]).square().sum().item(), rel=1e-5)


def test_on_a_line_pairs_are_sorted():
    noise, x0, _ = coupled("minibatch_ot", batch=64, dim=1)
    assert torch.equal(noise.flatten().argsort(), x0.flatten().argsort())


def crossing(batch):
    """Var(eps - x0) left over given the pair's midpoint, for data N(.7, .4^2): 0 when pairs never cross."""
    noise, x0, _ = coupled("minibatch_ot", batch=batch, n=2048, dim=1)
    noise, x0 = noise.flatten().double(), x0.flatten().double()
    middle = torch.stack([(noise + x0) / 2, torch.ones(2048)], 1).double()
    chord = noise - x0
    return (chord - middle @ torch.linalg.lstsq(middle, chord).solution).square().mean().item()


def test_pairs_straighten_as_the_batch_grows():
    """Independent: Var(eps - x0 | midpoint) = 4 s^2 / (1 + s^2). Sorted pairs never cross: towards 0."""
    left = [crossing(batch) for batch in (1, 4, 32, 256)]
    assert left[0] == pytest.approx(4 * 0.16 / 1.16, rel=0.1)
    assert all(a > 1.8 * b for a, b in pairwise(left))
    assert left[-1] < 0.02


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match=r"did you mean 'minibatch_ot'"):
        coupled("minibatch-ot")
    with pytest.raises(ValueError, match="set batch to 2 or more"):
        coupled("minibatch_ot", batch=0)
    noise, x0, prompts = pairs()
    with pytest.raises(ValueError, match="pairs need as many"):
        couple(noise, x0[:-1], prompts, name="independent", batch=1, rng=stream(0, "x"))
