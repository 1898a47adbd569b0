"""Rare and steady samples against closed forms."""

from functools import partial

import pytest
import torch

from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.core.spec import even
from stages.steering.rare import restored
from tests.samplers.rigs import F64, from_data, gaussian
from tests.steering.rigs import ANCESTRAL, MEAN, NORMAL, STD, mixed, steering, task

pytestmark = pytest.mark.slow

EULER = {"name": "euler"}
UNIT = gaussian(LINEAR, 0.0, 1.0)


def nothing(x):
    raise AssertionError("no reward is asked")


@pytest.mark.parametrize(
    ("skip", "rule", "variance"),
    [(3, EULER, 1.012), (3, ANCESTRAL, 0.243), (30, EULER, 1.270), (30, ANCESTRAL, 0.248)],
)
def test_a_flow_keeps_the_boost_and_a_memoryless_process_forgets_it(skip, rule, variance):
    given = task(NORMAL, nothing, count=6000, rule=rule, steps=250)
    found = steering("boost", boost=2.0, skip=skip).search(given)
    assert found.x0.var().item() == pytest.approx(variance, rel=0.06)
    assert given.calls.unique().tolist() == [250 - skip]
    assert given.scored.sum() == 0


@pytest.mark.parametrize(("time", "values"), [(0.3, (0.131, 0.155, 0.227)), (0.5, (0.25, 0.50, 1.25))])
def test_what_is_rare_is_hard_to_restore(time, values):
    given = task(UNIT, nothing, count=3, rule=EULER)
    x0, of = (
        torch.tensor([0.0, 1, 2], dtype=F64).repeat_interleave(40_000)[:, None],
        torch.arange(3).repeat_interleave(40_000),
    )
    noise = torch.randn(x0.shape, generator=stream(0, "noise"), dtype=F64)
    gap = (restored(given, x0, time, noise, of) - x0).square().view(3, -1).mean(dim=1)
    assert gap.tolist() == pytest.approx(values, rel=0.02)


def test_the_rarest_of_several_is_further_out():
    given = task(UNIT, nothing, count=2000, rule={"name": "heun"}, steps=16)
    found = steering("minority", particles=4, noisings=8).search(given)
    assert found.x0.square().mean().item() > 2.0, "1 without it"
    assert given.calls.unique().tolist() == [4 * 31 + 4 * 8]


def test_self_guidance_pushes_away_from_the_mean_and_by_the_prediction_alone():
    given, chosen = task(UNIT, nothing, count=4000, rule=ANCESTRAL), steering("self_guided", time=0.5)
    for x in (-1.5, -0.5, 0.5, 1.5):
        state, of = torch.full((4000, 1), x, dtype=F64), given.owners(1)
        slope = chosen.rise(given, state, 0.5, 1, of).mean().item()
        # At t = .5 both D and its restoration are as large as their input: D = x, noised to x / 2, restored to x / 2.
        assert slope == pytest.approx(2 * (x - x / 2), abs=0.05)
    plain = steering("self_guided", scale=0.0).search(task(UNIT, nothing, count=4000, rule=ANCESTRAL, steps=40))
    pushed = steering("self_guided", scale=1.0).search(task(UNIT, nothing, count=4000, rule=ANCESTRAL, steps=40))
    assert pushed.x0.var() > plain.x0.var() + 0.2


def test_a_push_is_as_large_as_the_noise_so_that_there_has_to_be_some():
    assert "no kernel" in steering("self_guided").serves(even(8))
    given = task(UNIT, nothing, count=3, rule=ANCESTRAL)
    steering("self_guided", every=3).search(given)
    assert given.calls.tolist() == [8 + 2 * 4] * 3
    assert "leaves none" in steering("boost", skip=4).serves(even(4))


def smoothed(width):
    """Three sharp modes, with a prediction that is smooth where theirs jumps."""
    law = {"weights": (1 / 3, 1 / 3, 1 / 3), "means": (1.0, 2.0, 3.0), "stds": (0.05, 0.05, 0.05)}
    exact = partial(mixed, **{name: torch.tensor(value, dtype=F64) for name, value in law.items()})
    z = torch.linspace(-3, 3, 13, dtype=F64)
    weights = (-z.square() / 2).softmax(0)
    return from_data(
        LINEAR, lambda x, a, s: sum(w * exact(x + width * k, a, s) for w, k in zip(weights, z, strict=True))
    )


def rank(scores, bad):
    """AUROC of the scores for what is bad."""
    order = scores.argsort().argsort().double()
    positives = bad.sum()
    return ((order[bad].sum() - positives * (positives - 1) / 2) / (positives * (~bad).sum())).item()


def test_what_lies_between_modes_was_unsteady_late_and_not_earlier():
    def watched(width, window):
        given = task(smoothed(width), nothing, count=1, rule=ANCESTRAL, steps=200)
        x0, unsteady = steering("steady", particles=2500, window=window).watched(given)
        return unsteady, (x0 - x0.round().clamp(1, 3)).abs().flatten() > 0.25

    assert watched(0.0, 10)[1].sum() == 0, "the exact score has none"
    late, bad = watched(0.15, 10)
    assert 0.002 < bad.double().mean().item() < 0.05
    assert rank(late, bad) > 0.75
    assert rank(watched(0.15, 100)[0], bad) < rank(late, bad) - 0.15


def test_watching_costs_nothing_and_needs_nodes_to_watch():
    given = task(NORMAL, nothing, count=3, rule=EULER)
    steering("steady", particles=5).search(given)
    assert given.calls.tolist() == [40] * 3
    assert "more than the 2 inner nodes" in steering("steady").serves(even(3))
    assert MEAN == 2 * STD
