"""One noise for all pictures: the best of the candidates by the closed form, the same whoever restores with it."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stages import reflow
from stages.core.coarse import coarse
from stages.core.config import check
from stages.core.path import expand
from stages.core.rng import stream
from stages.core.spec import even
from stages.io.expected import Expected
from stages.io.job import Job
from stages.models import Student
from stages.models.space import Points
from stages.samplers.fits import fit_of
from stages.samplers.fits.model import Fitting
from stages.samplers.program import program
from stages.samplers.restored import restored
from stages.samplers.spec import Sampler, calls
from stages.samplers.student import Noise, draw
from tests.samplers.rigs import F64, choice
from tests.training.gaussian import tokens

SHAPE, STDS = (1, 2, 2), torch.tensor([0.1, 0.4, 0.9], dtype=F64)
DETAILS = torch.tensor([[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=F64) / 2
"""Of a square of four pixels, all that its mean does not tell; each varies by itself."""
PRESET = choice("fit", "boundary_condition")


class Restorer(nn.Module):
    """The exact velocity of squares whose details are N(0, STDS^2) about their mean, which is told."""

    latent_variable = True

    def __init__(self):
        super().__init__()
        self.register_buffer("stds", STDS)
        self.seen = []

    def forward(self, x, t, _cond, z):
        self.seen.append(x.clone())
        along = (x - (1 - expand(t, x)) * z).flatten(1) @ DETAILS.T
        data = z + (gain(t[:, None]) * along @ DETAILS).view_as(x)
        return (x - data) / expand(t, x)


def gain(t):
    """Of each detail, E[x0 | x_t] by x_t."""
    return (1 - t) * STDS**2 / ((1 - t) ** 2 * STDS**2 + t**2)


def kept(num_steps):
    """What Euler's even steps make of each detail of noise: |x0 - m| by |x_T|, by the flow's linear steps."""
    times = [1 - i / num_steps for i in range(num_steps + 1)]
    return torch.stack([1 + (s - t) / t * (1 - gain(t)) for t, s in pairwise(times)]).prod(0)


def pairs(n, name="x0"):
    """Clean squares [2 n, ...] and their details: each is there with its details turned round too."""
    details = STDS * torch.randn(n, 3, dtype=F64, generator=stream(0, name))
    means = torch.randn(n, 1, dtype=F64, generator=stream(0, f"{name}/means")).expand(n, 4)
    x0 = torch.cat([means + details @ DETAILS, means - details @ DETAILS])
    return x0.view(-1, *SHAPE), torch.cat([details, -details])


def given(n, seed=1, name="x0"):
    x0 = pairs(n, name)[0]
    return Fitting(Restorer(), tokens(len(x0)), x0, x0, lambda word: stream(seed, word))


def fit(steps=3, **knobs):
    return fit_of({**PRESET, "schedule": {"name": "uniform", "steps": steps}, **knobs})


def expected(noise, details, steps):
    """The mean squared distance of what comes of a noise: of the details, and of what Euler makes of the noise's."""
    return (details.square().sum(1).mean() + (kept(steps) * (DETAILS @ noise.flatten())).square().sum()) / 4


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_the_best_candidate_is_that_of_the_closed_form(steps):
    model, (_, details), fitting = given(20), pairs(20), fit(steps, candidates=64)
    candidates = list(fitting.drawn(model))
    distances = torch.stack([expected(each, details, steps) for each in candidates])
    found = fitting.fitted(model)
    assert found.rule.noise == tuple(candidates[distances.argmin()].flatten().tolist())
    assert check(Sampler, found.stated, "sampler") == found
    assert calls(found.spec) == steps


def test_its_distance_is_the_closed_forms_and_none_is_best_of_all():
    model, (x0, details) = given(20), pairs(20)
    rows = torch.zeros(len(x0), 1, dtype=torch.int64)

    def distance(noise, steps=4):
        rule = {"name": "boundary_condition", "noise": noise.flatten().tolist(), "then": {"name": "euler"}}
        spec = replace(even(steps), rule=rule)
        made = restored(Student(Restorer(), spec, Points(SHAPE, F64), None), rows, coarse(x0, 2), Noise(0, "x"))
        return (made - x0).square().mean().item()

    candidates = list(fit(candidates=5).drawn(model))
    for each in candidates:
        assert distance(each) == pytest.approx(expected(each, details, 4).item(), rel=1e-9)
    none = distance(torch.zeros(1))
    assert none == pytest.approx((details.square().sum(1).mean() / 4).item(), rel=1e-9)
    assert none < min(distance(each) for each in candidates)


def test_on_other_pictures_it_is_better_than_a_candidate_on_average():
    """Whichever pictures, however many: what was chosen on 40 is as good on 2000."""
    chosen, others = fit(candidates=64), pairs(1000, "others")[1]
    model = given(20)
    noise = torch.tensor(chosen.fitted(model).rule.noise, dtype=F64)
    average = torch.stack([expected(each, others, 3) for each in chosen.drawn(model)]).mean()
    assert expected(noise, others, 3) < 0.75 * average


def test_it_is_a_function_of_its_seed_and_the_first_candidates_are_there_however_many():
    def noise(candidates, seed=1):
        return fit(candidates=candidates).fitted(given(20, seed)).rule.noise

    assert noise(8) == noise(8) != noise(8, seed=2)
    (one,) = fit(candidates=1).drawn(given(20))
    assert noise(1) == tuple(one.flatten().tolist())
    few, many = (list(fit(candidates=count).drawn(given(20))) for count in (3, 9))
    assert all(map(torch.equal, few, many))


def test_every_picture_begins_at_the_same_noise_whoever_is_beside_it():
    x0 = pairs(4)[0]
    told, rows = coarse(x0, 2), torch.zeros(len(x0), 1, dtype=torch.int64)
    spec = fit(candidates=4).fitted(given(8)).spec
    net = Restorer()
    model = Student(net, spec, Points(SHAPE, F64), None)
    whole = restored(model, rows, told, Noise(0, "x"))
    begun = torch.tensor(spec.rule["noise"], dtype=F64).view(SHAPE)
    assert torch.equal(net.seen[0], begun.expand(len(x0), *SHAPE))
    again = torch.cat([restored(model, rows[i : i + 3], told[i : i + 3], Noise(7, "y")) for i in range(0, 8, 3)])
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-15)
    one = restored(model, rows[:1], told[5:6], Noise(0, "z"))
    torch.testing.assert_close(one, whole[5:6], rtol=0, atol=1e-15)


def test_samplers_that_draw_more_noise_or_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="dpmpp_2m_sde draws noise beside the one that is carried; take one that"):
        fit(then=choice("rule", "dpmpp_2m_sde"))
    with pytest.raises(ValueError, match="5 ratios, and the sampler takes 3 steps"):
        fit(then=choice("rule", "dc_solver"))
    with pytest.raises(ValueError, match=r"then\.name: 'renoise' is none of"):
        fit(then={"name": "renoise"})
    with pytest.raises(ValueError, match="candidates"):
        fit(candidates=0)
    x0 = pairs(1)[0]
    rule = {"name": "boundary_condition", "noise": [0.0] * 5, "then": {"name": "euler"}}
    model = Student(Restorer(), replace(even(2), rule=rule), Points(SHAPE, F64), None)
    rows = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"is of 5 numbers, and samples of shape \[1, 2, 2\] have 4; fit one to this"):
        restored(model, rows, x0, Noise(0, "x"))
    assert not model.net.seen, "before any work"
    with pytest.raises(ValueError, match="begins at a noise of its own; take begin=noise, or another rule"):
        restored(
            replace(model, spec=replace(even(2), rule={**rule, "noise": [0.0]})),
            rows,
            x0,
            Noise(0, "x"),
            begin="picture",
        )


def test_what_is_told_no_pictures_is_refused():
    """There all samples would be one."""
    spec = replace(even(2), rule=choice("rule", "boundary_condition"))
    stated = {"rule": dict(spec.rule), "schedule": {"name": "uniform", "steps": 2}, "guidance": 1.0}
    model = Student(Restorer(), spec, Points(SHAPE, F64), None)
    fault = "rule boundary_condition begins all samples at one noise: for pictures that are restored, by `fewstep samp"
    with pytest.raises(ValueError, match=fault):
        draw(model, torch.zeros(2, 1, dtype=torch.int64), Noise(0, "x"))
    with pytest.raises(ValueError, match=fault):
        program(spec)
    with pytest.raises(ValueError, match=fault):
        check(Sampler, stated, "sampler").takes(SHAPE)
    with pytest.raises(ValueError, match=fault):
        fit_of({**choice("fit", "quantised"), "rule": dict(spec.rule)})
    with pytest.raises(ValueError, match="boundary_condition begins at a noise of its own"):
        fit_of({**choice("fit", "search"), "rules": [dict(spec.rule)]})
    untold = replace(given(2), net=lambda x, _t, _cond: x)
    with pytest.raises(ValueError, match="the model is told no pictures; make one that is: teacher=restoration"):
        fit().fitted(untold)


def expect(fitting, teacher):
    section = {**choice("reflow", "default"), "samplers": {"best": fitting}}
    inputs = dict.fromkeys(("dataset", "teacher", "encode", "trajectories")) | {"teacher": teacher}
    job = Job(stage="reflow", arm=None, seed=0, section=section, inputs={})
    return reflow.expect(check(reflow.Config, section, "reflow"), job, inputs)


@pytest.mark.parametrize(
    ("knobs", "is_told", "shape", "message"),
    [
        ({}, True, (1, 8, 8), None),
        ({}, False, (1, 8, 8), r"reflow\.samplers\.best: the teacher is told no pictures; take teacher=restoration"),
        ({"factor": 3}, True, (1, 8, 8), r"reflow\.samplers\.best: factor=3 does not divide the sides of samples"),
        ({}, True, (3, 128, 128), r"reflow\.samplers\.best: a noise of 49152 numbers is more than a sampler holds, 20"),
    ],
)
def test_a_stage_refuses_it_before_any_work(knobs, is_told, shape, message):
    teacher = Expected(model="trained", sketch=SimpleNamespace(shape=shape), is_told=is_told)
    if message is None:
        assert expect({**PRESET, **knobs}, teacher).has_pairs
        return
    with pytest.raises(ValueError, match=message):
        expect({**PRESET, **knobs}, teacher)
