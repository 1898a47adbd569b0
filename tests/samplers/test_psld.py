"""PSLD: its kernel and what it tells of data, the angle that noise turns by, and what it is without momentum."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.field import State
from stages.samplers.psld import Conditional, reached, transfer
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, LINEAR, OF_PATHS, START, from_data, law, law_gap, law_order, log_grid, mixture

pytestmark = pytest.mark.slow

CIFAR = (0.01, 4.01)


def psld(gamma=0.01, nu=4.01):
    return rule_of({"name": "psld", "gamma": gamma, "nu": nu, "kappa": 0.04})


def times_of(b):
    """Of the flow path, of the same noise."""
    rho = Conditional(psld(), b).rho
    return rho / (1 + rho)


@pytest.mark.parametrize(
    ("gamma", "nu", "t", "mean", "covariance"),
    [
        (*CIFAR, 0.1, (0.80556343, -0.17901410), (0.2280107447, 0.1288251061, 0.2160311909)),
        (*CIFAR, 0.3, (0.30476187, -0.10756301), (0.8626921658, 0.0457392823, 0.2346507299)),
        (*CIFAR, 1.0, (0.00290078, -0.00128924), (0.9999852029, 6.5322e-6, 0.2499971162)),
        (0.0, 4.0, 0.3, (0.30844104, -0.10886154), (0.8593569148, 0.0468503040, 0.2342778912)),
        (4.0, 0.0, 0.1, (0.08986579, -0.17973159), (0.8678789186, -0.1233991518, 0.0607018247)),
        (0.25, 4.25, 0.1, (0.73182539, -0.16262786), (0.3628719652, 0.1063202449, 0.2219653086)),
    ],
)
def test_the_kernel_is_the_published_one(gamma, nu, t, mean, covariance):
    """There the momentum's variance is M in the end, M = 4 / (gamma - nu)^2 = 0.25; beta = 8."""
    kernel, scale = Conditional(psld(gamma, nu), torch.tensor([8 * t], dtype=F64)), 0.5
    assert [kernel.mean[0, 0].item(), scale * kernel.mean[0, 1].item()] == pytest.approx(mean, abs=5e-9)
    (xx, xm), (_, mm) = kernel.covariance[0].tolist()
    assert [xx, scale * xm, scale**2 * mm] == pytest.approx(covariance, abs=5e-10)


def test_what_both_tell_of_the_data_is_more_than_the_position_alone():
    kernel = Conditional(psld(), torch.tensor([0.8, 2.4], dtype=F64))
    alone = kernel.mean[:, 0].square() / kernel.covariance[:, 0, 0]
    assert kernel.rho.pow(-2).tolist() == pytest.approx([5.653487, 0.173577], abs=5e-7)
    assert alone.tolist() == pytest.approx([2.846061, 0.107663], abs=5e-7)
    assert reached(psld(), kernel.rho).tolist() == pytest.approx([0.8, 2.4], abs=1e-12)
    unit = kernel.frame.mT @ kernel.covariance @ kernel.frame
    torch.testing.assert_close(unit, torch.eye(2, dtype=F64).expand(2, 2, 2), rtol=0, atol=1e-12)
    seen = (kernel.frame.mT @ kernel.mean[..., None])[..., 0]
    assert seen[:, 1].abs().max() < 1e-12, "r is noise alone"
    torch.testing.assert_close(seen[:, 0], 1 / kernel.rho)


@pytest.mark.parametrize(("gamma", "nu"), [CIFAR, (0.0, 4.0), (4.0, 0.0), (1.5, 0.5)])
def test_a_step_with_data_that_stay_is_the_ode_of_position_and_momentum(gamma, nu):
    rule, data = psld(gamma, nu), 0.7
    kernel = Conditional(rule, torch.tensor([3.0, 0.4], dtype=F64))
    frame, mean = kernel.frame, kernel.mean * data
    z = torch.tensor([0.9, -1.3], dtype=F64)
    apart = abs(gamma - nu) / 2
    drift = 0.5 * torch.tensor([[-gamma, apart], [-apart, -nu]], dtype=F64)
    noise = torch.diag(torch.tensor([gamma, nu], dtype=F64))

    def slope(b, z):
        now, z = Conditional(rule, torch.tensor([b], dtype=F64)), torch.from_numpy(z)
        score = -torch.linalg.solve(now.covariance[0], z - now.mean[0] * data)
        return (drift @ z - 0.5 * noise @ score).numpy()

    end = torch.from_numpy(solve_ivp(slope, (3.0, 0.4), z.numpy(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1])
    (e, r), (e_end, r_end) = (frame[k].T @ (at - mean[k]) for k, at in ((0, z), (1, end)))
    t, s = (kernel.rho / (1 + kernel.rho)).tolist()
    velocity = from_data(LINEAR, lambda x, _a, _s: torch.full_like(x, data))
    x = (1 - t) * data + t * e.view(1, 1)
    found = []
    made = sample(
        velocity, x, [t, s, 0.0], rule, rng=lambda _node, x: torch.full_like(x, r.item()),
        steer=lambda _field, state, _node: found.append(state.memory["momentum"]) or state, keep=(1,),
    )  # fmt: skip
    assert made.states[0].item() == pytest.approx((1 - s) * data + s * e_end.item(), abs=1e-8)
    assert found[0].item() == pytest.approx(r_end.item(), abs=1e-8)
    assert made.x0.item() == pytest.approx(data, abs=1e-12)


@OF_PATHS
def test_without_momentum_it_is_euler(path):
    times = log_grid(path, 7, 0.95, 0.02)
    made = sample(mixture(path), START, times, psld(2.0, 2.0), path=path, rng=stream(0, "draws")).x0
    torch.testing.assert_close(made, sample(mixture(path), START, times, "euler", path=path).x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("gamma", "nu"), [CIFAR, (0.0, 4.0), (4.0, 0.0)])
def test_by_the_sde_what_is_told_of_the_data_would_be_ddim(gamma, nu):
    """The posterior of e, given (e, r) and the data, keeps rho_t / rho_s of e and nothing of r, as DDPM's does."""
    rule, b = psld(gamma, nu), torch.tensor([2.0, 0.3], dtype=F64)
    start, end = Conditional(rule, b[:1]), Conditional(rule, b[1:])
    kept = end.frame[0].T @ end.covariance[0] @ transfer(rule, b[:1] - b[1:])[0].T @ start.frame[0]
    assert kept[0].tolist() == pytest.approx([(end.rho / start.rho).item(), 0.0], abs=1e-12)


@pytest.mark.parametrize(("gamma", "nu"), [CIFAR, (0.0, 4.0), (4.0, 0.0)])
def test_of_order_1(gamma, nu):
    """Measured on data N(1, 0.5^2): 0.96 to 0.97 from 80 to 160 steps."""
    assert law_order(psld(gamma, nu), LINEAR, 80) == pytest.approx(1, abs=0.06)


def test_its_law_is_further_off_than_eulers_in_as_many_steps():
    """Of variance, on data N(1, 0.5^2), from time 0.95 to 0.02."""
    assert law_gap(psld(), LINEAR, 20) == pytest.approx(-0.0767, abs=1e-4)
    assert law_gap("euler", LINEAR, 20) == pytest.approx(-0.0377, abs=1e-4)


@pytest.mark.parametrize(
    ("noisy", "steps", "mean", "std"),
    [
        (False, 25, 0.784105, 2.022138), (False, 100, 0.720759, 0.605579),
        (True, 25, 0.750105, 0.519665), (True, 100, 0.712337, 0.409821),
    ],
)  # fmt: skip
def test_the_score_is_the_flows_and_euler_in_position_and_momentum_is_far_worse(noisy, steps, mean, std):
    """Euler's rule on z, even steps to 1e-3 and a mean step, on data N(0.7, 0.4^2), by moments.

    The score is made of D(y, rho), as the rule makes it. Measured: the rule's std is 0.2957 in 25 steps, 0.3654 in 100.
    """
    b = 8 * torch.linspace(1, 1e-3, steps + 1, dtype=F64)
    kernel, h = Conditional(psld(), b), 8 * (1 - 1e-3) / steps
    drift = 0.5 * torch.tensor([[-0.01, 2.0], [-2.0, -4.01]], dtype=F64)
    noise = torch.diag(torch.tensor([0.01, 4.01], dtype=F64))
    eye, centre, spread = torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
    for i in range(steps + 1):
        mu, inverse, rho = kernel.mean[i], torch.linalg.inv(kernel.covariance[i]), kernel.rho[i]
        gain = 0.16 / (0.16 + rho**2)  # D = gain y + (1 - gain) 0.7
        slope = inverse @ (torch.outer(mu, gain * rho**2 * (inverse @ mu)) - eye)
        offset = inverse @ mu * (1 - gain) * 0.7
        last, share = i == steps, 1.0 if noisy else 0.5
        width = 8e-3 if last else h
        # The last step, to data, is the reverse SDE's without its noise.
        move = eye - width * (drift - (1.0 if last and noisy else share) * noise @ slope)
        centre = move @ centre + width * share * noise @ offset
        spread = move @ spread @ move.T + (width * noise if noisy and not last else 0 * eye)
    assert [centre[0].item(), spread[0, 0].sqrt().item()] == pytest.approx([mean, std], rel=1e-5)
    times = torch.cat([times_of(b), torch.zeros(1, dtype=F64)])
    _, slopes = law(psld(), LINEAR, times, mean=0.7, std=0.4)
    assert abs(slopes.norm().item() - 0.4) < 0.11


def test_the_momentum_goes_where_its_sample_goes_and_is_drawn_once():
    nodes = []

    def draw(node, x):
        nodes.append(node)
        return torch.arange(len(x)).to(x)[:, None].expand_as(x)

    x = torch.zeros(3, 1)

    def swapped(_field, state, node):
        return state.take(torch.tensor([2, 0, 1])) if node == 1 else state

    velocity = from_data(LINEAR, lambda x, a, s: 0.0 * x)
    plain = sample(velocity, x, uniform(3), psld(), rng=draw, keep=(2,)).states[0]
    moved = sample(velocity, x, uniform(3), psld(), rng=draw, keep=(2,), steer=swapped).states[0]
    assert torch.equal(moved, plain[[2, 0, 1]])
    assert nodes == [4, 4]
    assert plain.unique().numel() == 3
    anew = lambda _field, state, node: State(state.x)  # noqa: E731
    assert sample(velocity, x, uniform(3), psld(), rng=draw, steer=anew).x0.isfinite().all()
    assert nodes[2:] == [4, 5], "and again where it is lost; the last step needs none"


def test_a_process_without_noise_is_refused():
    with pytest.raises(ValueError, match="gamma and nu are 0, where no noise ever comes to data; raise one of them"):
        psld(0.0, 0.0)
    assert math.isfinite(reached(psld(0.0, 1e-6), torch.tensor([1e8], dtype=F64)).item())
