"""Diffusion of the residual is the flow on times of its own: states, steps, published numbers, and where it begins."""

from dataclasses import replace

import pytest
import torch

from stages.core.coarse import coarse
from stages.core.config import check
from stages.core.path import LINEAR, Path, mix
from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student
from stages.models.space import Points
from stages.samplers import sample
from stages.samplers.grid import build
from stages.samplers.restored import restored
from stages.samplers.schedules.residual import OUVE, Residual, ResShift, _cut, flow_time
from stages.samplers.student import Noise
from tests.samplers.rigs import F64, from_data, gaussian
from tests.training.gaussian import tokens

PROCESSES = {
    "resshift": {"kappa": 2.0, "power": 0.3},
    "rddm": {"spread": 0.1},
    "mean_reverting": {"left": 0.005, "spread": 0.5},
    "ou_ve": {"pull": 1.5, "least": 0.05, "most": 0.5},
    "resfusion": {},
}
OF_PROCESSES = pytest.mark.parametrize("name", PROCESSES)
MEAN, STD, TOLD = 0.7, 0.4, 0.3
"""Of clean data given the coarse picture, and that picture."""


def schedule(name, steps):
    return check(Residual, {"name": "residual", "steps": steps, "process": {"name": name, **PROCESSES[name]}}, "s")


@OF_PROCESSES
def test_its_states_are_the_flows_of_a_clean_picture_moved_and_scaled(name):
    u = torch.linspace(0.05, 1, 7, dtype=F64)
    (c, alpha, sigma), t = schedule(name, 4).process.curves(u), flow_time(schedule(name, 4).process, u)
    x0, y, eps = torch.randn(3, 7, dtype=F64, generator=stream(0, "x"))
    x = c * y + alpha * (x0 - y) + sigma * eps
    torch.testing.assert_close((x - (c - alpha) * y) / (alpha + sigma), mix(x0, eps, t))
    begun = c * y + sigma * eps
    torch.testing.assert_close((begun - (c - alpha) * y) / (alpha + sigma), mix(y, eps, t))


@OF_PROCESSES
@pytest.mark.parametrize("rule", ["euler", "dpmpp_2m"])
def test_rules_take_the_same_steps_on_the_residual_along_its_own_path(name, rule):
    process = schedule(name, 4).process
    nodes = torch.linspace(0.9, 0.1, 6, dtype=F64)
    times = flow_time(process, nodes)
    own = Path(name, lambda u: process.curves(u)[1], lambda u: process.curves(u)[2])
    z = torch.randn(3, 1, dtype=F64, generator=stream(0, "z"))
    made = sample(gaussian(LINEAR, MEAN, STD), z, times, rule).x0

    def residual(x, alpha, sigma):
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN - TOLD + gain * (x - alpha * (MEAN - TOLD))

    _, alpha, sigma = process.curves(nodes)
    first, last = ((alpha + sigma)[k] for k in (0, -1))
    r = first * z - alpha[0] * TOLD
    found = sample(from_data(own, residual), r, nodes, rule, path=own).x0
    torch.testing.assert_close((found + alpha[-1] * TOLD) / last, made, rtol=0, atol=1e-9)


def test_the_sources_numbers():
    resshift = check(ResShift, {"name": "resshift", **PROCESSES["resshift"]}, "p")
    _, alpha, sigma = resshift.curves(torch.tensor([0, 1, 7, 13, 14], dtype=F64) / 14)
    assert (sigma / 2).tolist() == pytest.approx([0.02, 0.117165, 0.475858, 0.908606, 0.99], abs=1e-6)
    assert (alpha / sigma).log()[[0, -1]].tolist() == pytest.approx([3.218476, -4.600132], abs=1e-6)
    speech = check(OUVE, {"name": "ou_ve", **PROCESSES["ou_ve"]}, "p")
    found = speech.curves(torch.tensor([0.03, 0.5, 1.0], dtype=F64))[2]
    assert found.tolist() == pytest.approx([0.0188301, 0.1216573, 0.3889827], abs=1e-7)
    a, alpha, _ = schedule("resfusion", 4).process.curves(torch.ones(1, dtype=F64))
    assert (a.item(), alpha.item()) == pytest.approx((0.5, 0), abs=1e-9)
    assert _cut() == pytest.approx(0.368, abs=1e-3), "368 of a thousand steps"


def test_resshifts_posterior_keeps_a_part_of_the_flows_noise_prediction():
    """At index 7: .750915 of the state and .249085 of the prediction, with noise of .411601."""
    process = check(ResShift, {"name": "resshift", **PROCESSES["resshift"]}, "p")
    u = torch.tensor([7 / 14, 6 / 14], dtype=F64)
    (_, alpha, sigma), (t, after) = process.curves(u), flow_time(process, u)
    share = sigma[1] / sigma[0]

    def mean(x, data):
        z = (x - (1 - alpha[0]) * TOLD) / (alpha + sigma)[0]
        moved = mix(data, share * (z - (1 - t) * data) / t, after)
        return ((alpha + sigma)[1] * moved + (1 - alpha[1]) * TOLD).item()

    x, data = torch.tensor([0.2, -0.5], dtype=F64)
    assert mean(x, data) == pytest.approx(0.750915 * 0.2 - 0.249085 * 0.5, abs=1e-6)
    assert (sigma[1] * (1 - share**2).sqrt()).item() == pytest.approx(0.411601, abs=1e-6)


def test_mrs_is_a_step_of_ours():
    """alpha .6 to .9, sigma .4 to .217945, y = .3, x = .55, D = .9: .780065."""
    ends = build(LINEAR, [0.4 / (0.6 + 0.4), 0.217945 / (0.9 + 0.217945)])
    z = torch.tensor([0.55 - (1 - 0.6) * 0.3], dtype=F64)
    made = ends.jump(z, torch.tensor([0.9], dtype=F64), 0)
    assert (0.9 + 0.217945) * made.item() + (1 - 0.9) * 0.3 == pytest.approx(0.780065, abs=1e-6)


def student(mean, std, spec):
    """Whose velocity is exact, whatever it is told."""
    exact = gaussian(LINEAR, mean, std)

    def net(x, t, _cond, **_told):
        return exact(x, t)

    net.latent_variable = True
    return Student(net, spec, Points((1, 1, 1), F64), None)


def spec_of(name, steps):
    made = schedule(name, steps)
    return replace(even(steps, rule="heun"), times=tuple(made.times().tolist()))


def test_to_begin_at_the_picture_leaves_out_what_is_left_of_the_residual():
    """Of data N(1, .1^2) and a picture of 0 SGMSE+ has a mean of .942732, and Resfusion, begun at noise, of 1."""
    n = 5000
    for name, mean in (("ou_ve", 0.942732), ("resfusion", 1.0)):
        seen = student(1.0, 0.1, spec_of(name, 24))
        told, begin = torch.zeros(n, 1, 1, 1, dtype=F64), "picture" if name == "ou_ve" else "noise"
        found = restored(seen, tokens(n), told, Noise(0, "x"), begin=begin)
        assert found.mean().item() == pytest.approx(mean, abs=5e-3)


def test_it_begins_at_the_second_time_and_tells_the_network_the_picture():
    seen, told = [], torch.full((2, 1, 1, 1), 0.3, dtype=F64)

    def net(x, t, _cond, z):
        seen.append((t[0].item(), x.clone(), z))
        return torch.zeros_like(x)

    net.latent_variable = True
    model = Student(net, even(4), Points((1, 1, 1), F64), None)
    restored(model, tokens(2), told, Noise(0, "x"), begin="picture")
    assert [t for t, _, _ in seen] == [0.75, 0.5, 0.25]
    eps = Noise(0, "x").at(0, 2, (1, 1, 1)).double()
    torch.testing.assert_close(seen[0][1], 0.25 * told + 0.75 * eps)
    assert all(z is told for _, _, z in seen)


def test_models_and_samplers_that_restore_nothing_are_refused():
    told = torch.zeros(1, 1, 1, 1, dtype=F64)
    plain = Student(gaussian(LINEAR, 0.0, 1.0), even(1), Points((1, 1, 1), F64), None)
    for model in (plain, student(0.0, 1.0, even(2, rule="ddgan"))):
        with pytest.raises(ValueError, match="told no pictures; make one that is: teacher=restoration"):
            restored(model, tokens(1), told, Noise(0, "x"))
    with pytest.raises(ValueError, match="of one step begins at pure noise; take two"):
        restored(student(0.0, 1.0, even(1)), tokens(1), told, Noise(0, "x"), begin="picture")
    field = {"name": "taylor_seer", "every": 2, "warm_up": 1, "order": 0, "differences": "newton"}
    with pytest.raises(ValueError, match=r"field=taylor_seer: .*; leave it out"):
        restored(student(0.0, 1.0, replace(even(4), field=field)), tokens(1), told, Noise(0, "x"))
    with pytest.raises(ValueError, match=r"least=0\.5 must be less than most=0\.05"):
        check(OUVE, {"name": "ou_ve", "pull": 1.5, "least": 0.5, "most": 0.05}, "p")


def test_a_coarse_picture_has_means_of_squares():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.tensor([[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2)
    assert torch.equal(coarse(x, 2)[0, 0], expected)
    assert torch.equal(coarse(coarse(x, 2), 2), coarse(x, 2))
