"""Laws of times: their quantiles, and what is refused."""

import pytest
import torch

from stages.core.config import check
from stages.core.rng import stream
from stages.training import flow_matching
from stages.training.levels import LogitNormal, Times, Uniform
from tests.training.gaussian import world

LIKE = torch.zeros(200_000, 1, 1, 1, dtype=torch.float64)
AT = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)


def normal(mean, std):
    return LogitNormal(name="logit_normal", mean=mean, std=std)


@pytest.mark.parametrize(
    ("law", "quantiles"),
    [
        (normal(3.0, 1.0), [0.847929, 0.910968, 0.952574, 0.975265, 0.986367]),
        (normal(0.0, 1.0), [0.217269, 0.337487, 0.5, 0.662513, 0.782731]),
        (Uniform(name="uniform"), [0.1, 0.25, 0.5, 0.75, 0.9]),
    ],
    ids=["style_friendly", "logit_normal", "uniform"],
)
def test_quantiles(law, quantiles):
    drawn = law.drawn(LIKE, stream(0, "t"))
    assert drawn.shape == (len(LIKE),)
    assert drawn.dtype == LIKE.dtype
    assert drawn.quantile(AT).tolist() == pytest.approx(quantiles, abs=3e-3)


def test_a_law_for_styles_looks_at_noise():
    drawn, usual = (normal(mean, 1.0).drawn(LIKE, stream(0, "t")) for mean in (3.0, 0.0))
    assert (drawn > 0.9).double().mean().item() == pytest.approx(0.788948, abs=4e-3)
    assert (usual > 0.9).double().mean().item() == pytest.approx(0.014002, abs=1e-3)
    assert (drawn < 0.5).double().mean().item() == pytest.approx(0.001350, abs=4e-4)


def test_a_training_draws_its_times_by_it():
    seen = []

    def student(x, t, _cond):
        seen.append(t)
        return x

    cfg = flow_matching.Config(
        lr=1e-3, condition_dropout=0.0, times=normal(3.0, 1.0), latent=0.0, perturbation=0.0, nfe=4
    )
    batch = {"x0": LIKE, "cond": torch.ones(len(LIKE), 1, dtype=torch.int64)}
    flow_matching.loss(world(student=student), batch, stream(0, "loss"), cfg)
    assert seen[0].median().item() == pytest.approx(0.952574, abs=1e-3)


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ({"name": "logit_normal", "mean": 0.0}, "std"),
        ({"name": "logit_normal", "mean": 0.0, "std": 0.0}, "std"),
        ({"name": "logit_normal", "mean": 99.0, "std": 1.0}, "mean"),
        ({"name": "uniform", "mean": 0.0}, "mean"),
        ({"name": "lognormal"}, "lognormal.*is none of uniform, logit_normal"),
    ],
)
def test_what_is_no_law_is_refused(law, said):
    with pytest.raises(ValueError, match=said):
        check(Times, law, "times")
