"""TimeTuner: the network is told the scaled time, the step is the node's; and what each way of fitting minimises."""

import pytest
import torch

from stages.core.config import check
from stages.core.spec import even
from stages.models.mixture import GaussianMixture
from stages.samplers import drive, sample
from stages.samplers.field import Field
from stages.samplers.fields import field_of, over
from stages.samplers.fields.time_tuner import told
from stages.samplers.fits import fit_of
from stages.samplers.fits.dc_solver import followed
from stages.samplers.fits.model import Fitting
from stages.samplers.fits.time_tuner import stepped
from stages.samplers.grid import build
from stages.samplers.program import program
from stages.samplers.schedules import uniform
from stages.samplers.spec import Sampler
from tests.samplers.rigs import F64, LINEAR
from tests.samplers.test_dc_solver import model


def tuner(*scales):
    return field_of({"name": "time_tuner", "scales": list(scales)})


def fit(aim, steps=4, width=0.2, **knobs):
    given = {"schedule": {"name": "uniform", "steps": steps}, "guidance": 1.0, "num_samples": 32, "parts": 8}
    return fit_of({"name": "time_tuner", **given, "aim": aim, "width": width, **knobs})


def run(field, times, rule="euler", seen=None):
    x = torch.linspace(-2, 2, 9, dtype=F64)[:, None, None, None]
    told_at = []

    def network(x, t):
        if seen is not None:
            seen.append(t[0].item())
        told_at.append(t)
        return x * t[:, None, None, None] ** 2

    return drive(over(field)(network, build(LINEAR, times), x), x, rule)


def test_scales_of_one_are_the_sampler_itself_to_the_last_bit():
    for rule in ("euler", "heun", "dpmpp_2m"):
        plain, tuned = run(None, uniform(4), rule), run(tuner(1.0, 1.0, 1.0, 1.0), uniform(4), rule)
        assert torch.equal(plain.x0, tuned.x0)
        assert plain.nfe == tuned.nfe


def test_the_network_is_told_the_scaled_time_and_the_step_is_the_nodes():
    seen = []
    made = run(tuner(1.2, 0.9, 1.1, 1.0), uniform(4), seen=seen)
    assert seen == pytest.approx([1.0, 0.675, 0.55, 0.25]), "no later than pure noise"
    x = torch.linspace(-2, 2, 9, dtype=F64)[:, None, None, None]
    for time in seen:
        x = x - 0.25 * x * time**2
    torch.testing.assert_close(made.x0, x)
    assert made.nfe == 4


def test_a_student_carries_it():
    spec = check(
        Sampler,
        {
            "rule": {"name": "euler"},
            "schedule": {"name": "uniform", "steps": 2},
            "guidance": 1.0,
            "field": {"name": "time_tuner", "scales": [1.0, 0.8]},
        },
        "sampler",
    ).spec
    assert [step[2] for step in program(spec) if step[0] == "velocity"] == [1.0, 0.4]
    assert [step[2] for step in program(even(2)) if step[0] == "velocity"] == [1.0, 0.5]


def test_scales_for_another_number_of_steps_are_refused():
    stated = {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 4}, "guidance": 1.0}
    with pytest.raises(ValueError, match="2 scales, and the sampler takes 4 steps; fit it to these"):
        check(Sampler, {**stated, "field": {"name": "time_tuner", "scales": [1.0, 1.0]}}, "sampler")
    with pytest.raises(ValueError, match=r"scales\.0"):
        tuner(1.6)


@pytest.mark.parametrize("aim", ["flow", "noise"])
def test_each_scale_is_the_least_of_all_within_its_width(aim):
    given, fitted = model(32), fit(aim).fitted(model(32))
    times = fitted.schedule.times().tolist()
    truth = followed(given.under(1.0), given.noise, times, 8)
    field, x = Field(given.under(1.0), build(LINEAR, times), given.noise), given.noise
    for i, scale in enumerate(fitted.field.scales):
        aimed = field.noise(x, i)

        def loss(scale, i=i, x=x, aimed=aimed):
            made = stepped(field, x, i, scale)
            gap = made - truth[i + 1] if aim == "flow" else field.noise(made, i + 1) - aimed
            return gap.square().mean().item()

        if aim == "noise" and i == 3:
            assert scale == 1.0
        else:
            assert 0.8 <= scale <= 1.2
            assert loss(scale) <= min(loss(0.8 + k / 100) for k in range(41)) * (1 + 1e-3) + 1e-12
            assert loss(scale) <= loss(1.0)
        x = stepped(field, x, i, scale)


def test_where_the_noise_prediction_stays_nothing_is_scaled():
    """Data at a point: every step is exact, and each prediction the noise itself."""
    law = GaussianMixture.even([[0.4]], [1e-6])
    given = model(16)
    found = fit("noise").fitted(Fitting(law, given.cond, given.noise, given.x0, given.rng))
    assert found.field.scales == (1.0,) * 4


def test_fitted_to_the_flow_it_is_nearer_to_it_on_noise_that_it_has_not_seen():
    seen = model(256, "other")
    truth = followed(seen.under(1.0), seen.noise, [1.0, 0.0], 120)[-1]
    found = fit("flow", steps=6).fitted(model(64))
    grid = build(LINEAR, found.spec.times)
    plain, tuned = (
        (drive(over(each)(seen.under(1.0), grid, seen.noise), seen.noise, "euler").x0 - truth).square().mean().sqrt()
        for each in (None, found.field)
    )
    assert tuned < 0.8 * plain


def test_a_scale_of_one_is_the_nodes_own_label():
    x, labels = torch.zeros(2, 1), []
    field = Field(lambda x, t: labels.append(t) or x, build(LINEAR, [0.9, 0.3]), x)
    told(field, x, 0, 1.0), told(field, x, 0, 0.5)
    assert [each[0].item() for each in labels] == pytest.approx([0.9, 0.45])
    assert field.counts.calls == 4
    assert sample(lambda x, _t: x, x, [0.9, 0.3], "euler").nfe == 1
