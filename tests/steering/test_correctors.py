"""Feynman-Kac correctors and DriftLite against laws that are known, at the numbers that were measured elsewhere."""

import pytest
import torch

from stages.core.path import LINEAR
from stages.core.spec import even
from tests.rewards.servers import PREFERENCE
from tests.samplers.rigs import F64, gaussian
from tests.steering.rigs import MEMORYLESS, MIXTURE, NORMAL, REWARD, SOFT, steering, task

pytestmark = pytest.mark.slow

FINE = [1.0, *torch.linspace(0.99, 0.002, 201, dtype=F64).tolist(), 0.0]
NEVER = {"rule": "systematic", "threshold": 0.0}


def found(name, velocity, *, particles=4000, count=1, branches=None, **changes):
    """P(x < 0), mean and variance under the weights of particles, means over `count` prompts, and the weights."""
    given = task(velocity, lambda x: x, count=count, rule=MEMORYLESS, times=FINE, branches=branches)
    x0, weighed = steering(name, particles=particles, **changes).cloud(given)
    x0, weights = x0.view(count, -1), weighed.log_weights.softmax(dim=1)
    below, mean = ((weights * values).sum(dim=1, keepdim=True) for values in ((x0 < 0).double(), x0))
    variance = (weights * (x0 - mean).square()).sum(dim=1)
    return below.mean().item(), mean.mean().item(), variance.mean().item(), weighed


def test_annealing_of_a_mixture_needs_its_weights():
    anneal = {"name": "anneal", "power": 2.0}
    right = found("fkc", MIXTURE, count=6, target=anneal)
    assert right[0] == pytest.approx(0.1091, abs=0.025), "its modes are resampled against each other"
    assert right[3].resamplings.min() >= 3
    knobs = {"particles": 8000, "target": {"name": "anneal", "power": 3.0}, "resampling": NEVER}
    x0, _ = steering("fkc", **knobs).cloud(task(MIXTURE, lambda x: x, count=1, rule=MEMORYLESS, times=FINE))
    assert (x0 < 0).double().mean().item() == pytest.approx(0.0536, abs=0.012), "the drift alone; it should be .0338"


def test_guidance_gives_the_product_law_only_with_its_weights():
    cond, free = NORMAL, gaussian(LINEAR, 0.0, 1.0)
    _, mean, variance, _ = found(
        "fkc", NORMAL, count=6, branches=lambda x, t, _of: (cond(x, t), free(x, t)),
        target={"name": "guide", "scale": 3.0},
    )  # fmt: skip
    assert (mean, variance) == pytest.approx((1.2, 0.1), abs=0.02)


def test_a_tilt_by_its_slope_and_weights_gives_the_tilted_mixture():
    below, mean, _, _ = found("fkc", MIXTURE, count=5, target={"name": "tilt", "strength": 1.0, "power": 1.0})
    assert below == pytest.approx(0.0561, abs=0.01)
    assert mean == pytest.approx(0.9305, abs=0.015)


def test_one_basis_takes_all_of_the_weights_of_a_gaussian():
    _, mean, variance, end = found(
        "driftlite", NORMAL, particles=200, target={"name": "anneal", "power": 3.0}, bases=["score"], resampling=NEVER
    )
    assert end.least.item() == pytest.approx(1, abs=1e-9)
    assert mean == pytest.approx(1.0, abs=0.08)
    assert variance == pytest.approx(0.25 / 3, abs=0.03)


def test_driftlite_needs_no_resampling_where_the_corrector_does():
    knobs = {"target": {"name": "anneal", "power": 2.0}, "particles": 4000}
    light = found("driftlite", MIXTURE, bases=["score", "state"], **knobs)
    assert light[0] == pytest.approx(0.1091, abs=0.012)
    assert light[3].resamplings.item() == 0
    assert light[3].least.item() == pytest.approx(0.95, abs=0.04)
    assert found("fkc", MIXTURE, **knobs)[3].resamplings.item() >= 3


@pytest.mark.parametrize(("control", "wide"), [("variance", 1), ("energy", 4)])
def test_driftlite_tilts_too(control, wide):
    """Energy's drift follows a mode once it has more of it, and is far noisier for that."""
    tilt = {"name": "tilt", "strength": 1.0, "power": 1.0}
    below, mean, _, weighed = found("driftlite", MIXTURE, count=5, target=tilt, control=control)
    assert below == pytest.approx(0.0561, abs=0.012 * wide)
    assert mean == pytest.approx(0.9305, abs=0.02 * wide)
    least = found("fkc", MIXTURE, count=5, target=tilt)[3].least.mean()
    assert (weighed.least.mean() > least + 0.05) == (control == "variance")


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="energy takes no score"):
        steering("driftlite", control="energy", bases=["score"])
    with pytest.raises(ValueError, match="the reward is no basis"):
        steering("driftlite", target={"name": "anneal", "power": 2.0}, bases=["reward"])
    with pytest.raises(ValueError, match="has no gradient by the image"):
        steering("fkc", reward=REWARD)
    with pytest.raises(ValueError, match="liked: compares a prompt's samples, and a search weighs each by itself"):
        steering("best_of_n", reward={"liked": PREFERENCE})
    chosen = steering("fkc", reward=SOFT)
    assert "memoryless" in chosen.serves(even(8))
    assert "memoryless" in chosen.serves(even(8, rule="flow_sde", noise_level=0.7))
    assert "three or more" in chosen.serves(even(2, **_memoryless()))
    assert chosen.serves(even(3, **_memoryless())) is None
    guide = steering("fkc", target={"name": "guide", "scale": 2.0})
    assert "guides already" in guide.serves(even(8, guidance=1.5, **_memoryless()))
    assert guide.serves(even(8, **_memoryless())) is None


def _memoryless():
    return {"rule": MEMORYLESS["name"], "noise_level": MEMORYLESS["noise_level"]}
