"""Kernels: affine recursions on a Gaussian, a mixture, and densities, with numbers known in closed form."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stages.core.path import LINEAR, VP_COSINE
from stages.core.rng import stream
from stages.core.spec import even
from stages.samplers import rule_of, sample
from stages.samplers.field import Rule
from stages.samplers.kernels import Transition, grid_like
from tests.samplers.rigs import EVERY, KERNELS, flow_sde_step, gaussian
from tests.training.gaussian import GaussianVelocity, tokens

MEAN, S2 = 1.0, 0.25


def steps(num: int, level: float) -> list[Transition]:
    times = grid_like(even(num).times, torch.zeros((), dtype=torch.float64))
    return [flow_sde_step(times, torch.tensor([k]), level) for k in range(num)]


def affine(num: int, level: float, *, noisy_end: bool) -> tuple[float, float, float, float]:
    """Mean, variance, correlation with x1 and Var(x0 | x1) of the sampler on N(1, .25), by recursion."""
    mean, slope, conditional = 0.0, 1.0, 0.0
    for k, step in enumerate(steps(num, level)):
        t = 1 - k / num
        variance = (1 - t) ** 2 * S2 + t**2
        rate = (t - (1 - t) * S2) / variance  # v = rate x + offset
        offset = -MEAN - rate * (1 - t) * MEAN
        last = k == num - 1 and not noisy_end
        a, b = (1.0, -1 / num) if last else (step.x_weight.item(), step.v_weight.item())
        noise = 0.0 if last else step.std.item()
        gain = a + b * rate
        mean, slope, conditional = gain * mean + b * offset, gain * slope, gain**2 * conditional + noise**2
    total = conditional + slope**2
    return mean, total, slope / math.sqrt(total), conditional


@pytest.mark.parametrize(
    ("num", "variance", "correlation", "conditional"),
    [
        (4, 0.2078, 0.198, 0.1996),
        (10, 0.2301, 0.229, 0.2180),
        (50, 0.2485, 0.188, 0.2397),
        (1000, 0.2509, 0.096, 0.2486),
    ],
)
def test_flow_sde_on_a_gaussian(num: int, variance: float, correlation: float, conditional: float) -> None:
    found = affine(num, 0.7, noisy_end=False)
    assert found == pytest.approx((1.0, variance, correlation, conditional), abs=6e-4)


@pytest.mark.parametrize(("num", "variance", "correlation"), [(4, 0.2058, 0.178), (10, 0.2300, 0.226)])
def test_flow_sde_with_noise_in_its_last_step(num: int, variance: float, correlation: float) -> None:
    _, found, corr, _ = affine(num, 0.7, noisy_end=True)
    assert (found, corr) == pytest.approx((variance, correlation), abs=6e-4)


@pytest.mark.parametrize(
    ("num", "variance", "correlation"), [(4, 0.4450, -0.02), (10, 0.2569, 0.0006), (1000, 0.25, 0)]
)
def test_memoryless_level(num: int, variance: float, correlation: float) -> None:
    _, found, corr, _ = affine(num, math.sqrt(2), noisy_end=False)
    assert (found, corr) == pytest.approx((variance, correlation), abs=2e-3)


def mixture_velocity(x: Tensor, t: float) -> Tensor:
    """The exact velocity of .3 N(-1, .3^2) + .7 N(1, .2^2)."""
    share, mu, sd = (torch.tensor(row).double()[:, None] for row in ([0.3, 0.7], [-1.0, 1.0], [0.3, 0.2]))
    variance = (1 - t) ** 2 * sd**2 + t**2
    gap = x - (1 - t) * mu
    weight = torch.softmax(share.log() - variance.log() / 2 - gap**2 / (2 * variance), dim=0)
    x0 = (weight * (mu + (1 - t) * sd**2 / variance * gap)).sum(dim=0)
    return (x - x0) / t


def mixture_run(num: int, n: int, step_of: Callable[[Transition, Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """P(x < 0) and the variance of n samples; the last step is deterministic."""
    rng = stream(0, "mixture")
    x = torch.randn(n, dtype=torch.float64, generator=rng)
    for k, step in enumerate(steps(num, 0.7)[:-1]):
        v = mixture_velocity(x, 1 - k / num)
        x = step_of(step, x, v) + step.std * torch.randn(n, dtype=torch.float64, generator=rng)
    x = x - mixture_velocity(x, 1 / num) / num
    return (x < 0).double().mean().item(), x.var().item()


def test_flow_sde_keeps_a_mixture() -> None:
    share, variance = mixture_run(300, 20_000, lambda step, x, v: step.mean(x, v))
    assert share == pytest.approx(0.2999, abs=0.012)
    assert variance == pytest.approx(0.895, abs=0.025)


def test_the_mixture_tells_a_missing_score_term() -> None:
    share, variance = mixture_run(300, 20_000, lambda _step, x, v: x - v / 300)
    assert share > 0.38
    assert variance > 1.5


def test_log_prob_is_the_gaussians_up_to_a_constant() -> None:
    (step,) = steps(4, 0.7)[1:2]
    mean, x = torch.tensor([[0.2], [0.2]]).double(), torch.tensor([[0.5], [-0.1]]).double()
    exact = torch.distributions.Normal(mean, step.std).log_prob(x).flatten()
    found = step.log_prob(x, mean)
    torch.testing.assert_close(found - found[:1], exact - exact[:1])


def test_log_prob_and_kl_are_means_over_elements() -> None:
    (step,) = steps(4, 0.7)[1:2]
    x, v, w = (torch.randn(1, 1, 1, 1, dtype=torch.float64, generator=stream(0, name)) for name in "xvw")
    wide = [y.expand(1, 3, 5, 5) for y in (x, v, w)]
    torch.testing.assert_close(step.log_prob(wide[0], wide[1]), step.log_prob(x, v))
    torch.testing.assert_close(step.kl(wide[1], wide[2]), step.kl(v, w))


@pytest.mark.parametrize("index", [0, 1, 3])
def test_kl_is_the_closed_form_and_the_mean_log_ratio(index: int) -> None:
    num, level, n = 5, 0.7, 200_000
    (step,) = steps(num, level)[index : index + 1]
    net, other = GaussianVelocity(1.0, 0.5), GaussianVelocity(0.4, 0.7)
    x = torch.full((n, 1, 1, 1), 0.3, dtype=torch.float64)
    t = torch.full((n,), 1 - index / num, dtype=torch.float64)
    with torch.no_grad():
        v, w = net(x, t, tokens(n)), other(x, t, tokens(n))
    found = step.kl(v[:1], w[:1]).item()
    if index:  # (h/2) ((1-t)/t) (1/a + a/2)^2 |v - w|^2; at t = 1 the code's g is not the formula's
        time, h = t[0].item(), 1 / num
        closed = h / 2 * (1 - time) / time * (1 / level + level / 2) ** 2 * (v[0] - w[0]).item() ** 2
        assert found == pytest.approx(closed)
    x_next = step.mean(x, v) + step.std * torch.randn(x.shape, dtype=torch.float64, generator=stream(0, "z"))
    ratio = step.log_prob(x_next, step.mean(x, v)) - step.log_prob(x_next, step.mean(x, w))
    assert ratio.mean().item() == pytest.approx(found, rel=0.03, abs=1e-4)


# Each kernel as a rule of the sampler. It is affine on a Gaussian, so that one noise at a time gives its exact law.


def law(rule: Rule, num: int) -> tuple[float, float, float, float]:
    """Mean, Var(x0), Corr(x0, x1) and Var(x0 | x1) of the sampler on N(1, .25), of draws of its own."""
    one = torch.eye(num + 1, dtype=torch.float64)  # row 0: x1 is one; row k: the noise drawn at node k is; last: none
    x1 = torch.cat([one[0], one.new_zeros(1)])[:, None]
    drawn = torch.cat([one, one.new_zeros(1, num + 1)])

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[0]
        return -MEAN + (t - (1 - t) * S2) / ((1 - t) ** 2 * S2 + t**2) * (x - (1 - t) * MEAN)

    made = sample(velocity, x1, even(num).times, rule, rng=lambda k, _x: drawn[:, [k]])
    end = made.x0.flatten()
    slopes = end[:-1] - end[-1]
    total = slopes.square().sum()
    return end[-1].item(), total.item(), (slopes[0] / total.sqrt()).item(), slopes[1:].square().sum().item()


TABLE = [  # rule, steps, Var(x0), Corr(x0, x1), Var(x0 | x1); nan: not compared
    ("euler", 0.0, 4, 0.1160, 1, 0), ("euler", 0.0, 10, 0.1856, 1, 0), ("euler", 0.0, 1000, 0.2493, 1, 0),
    ("flow_sde", 0.7, 4, 0.2078, 0.198, 0.1996), ("flow_sde", 0.7, 10, 0.2301, 0.229, 0.2180),
    ("flow_sde", 0.7, 50, 0.2485, 0.188, 0.2397), ("flow_sde", 0.7, 1000, 0.2509, 0.096, 0.2486),
    ("flow_sde", math.sqrt(2), 4, 0.4450, -0.02, math.nan), ("flow_sde", math.sqrt(2), 1000, 0.25, 0, math.nan),
    ("dance_sde", 0.3, 4, 0.1273, 0.867, 0.0316), ("dance_sde", 0.3, 10, 0.1936, 0.865, 0.0489),
    ("dance_sde", 0.3, 1000, 0.2494, 0.868, 0.0614),
    ("cps", 0.7, 4, 0.0950, 0.171, 0.0922), ("cps", 0.7, 10, 0.1371, 0.010, 0.1371),
    ("cps", 0.7, 50, 0.1685, 0, 0.1685), ("cps", 0.7, 1000, 0.1802, 0, 0.1802),
    ("cps", 0.8, 1000, 0.1621, 0, 0.1621), ("cps", 1.0, 1000, 0.1237, 0, 0.1237),
]  # fmt: skip


def noisy(name: str, level: float) -> Rule:
    knobs = {} if name == "euler" else {"depth" if name == "anchored" else "noise_level": level}
    return rule_of({"name": name, **knobs, **({"variance": "small"} if name == "ddim" else {})})


@pytest.mark.parametrize(("name", "level", "num", *"vcs"), TABLE)
def test_rules_have_the_tabulated_law_on_a_gaussian(name, level, num, v, c, s) -> None:
    mean, total, correlation, conditional = law(noisy(name, level), num)
    assert mean == pytest.approx(1, abs=1e-9)
    assert total == pytest.approx(v, abs=1e-4)
    assert correlation == pytest.approx(c, abs=2e-3)
    if not math.isnan(s):
        assert conditional == pytest.approx(s, abs=1e-4)


@pytest.mark.parametrize(("name", "level"), [("flow_sde", 0.7), ("flow_sde", math.sqrt(2)), ("dance_sde", 0.3)])
def test_a_diffused_flow_keeps_its_marginals_as_steps_shrink(name: str, level: float) -> None:
    gaps = [abs(law(noisy(name, level), num)[1] - S2) for num in (250, 1000)]
    assert gaps[1] < gaps[0]
    assert gaps[1] < 1.2e-3


@pytest.mark.parametrize("level", [0.3, 0.7, 1.0])
def test_cps_does_not_keep_the_marginals_of_data_that_spread(level: float) -> None:
    """Its limit is s^2 (1 + cos(eta pi / 2)) / 2, whatever the number of steps; a point keeps its own."""
    limit = S2 * (1 + math.cos(level * math.pi / 2)) / 2
    assert law(noisy("cps", level), 1000)[1] == pytest.approx(limit, abs=2e-3)
    assert limit < 0.98 * S2


@pytest.mark.parametrize("name", ["flow_sde", "dance_sde", "cps", "ddim", "anchored"])
@pytest.mark.parametrize("num", [3, 4])
def test_without_noise_a_rule_is_eulers(name: str, num: int) -> None:
    noise = torch.randn(6, 1, 2, 2, generator=stream(0, "noise"))
    velocity, draws = gaussian(LINEAR, 0.7, 0.4), stream(1, "draws")
    found, euler = (
        sample(velocity, noise, even(num).times, rule, rng=draws).x0 for rule in (noisy(name, 0.0), "euler")
    )
    torch.testing.assert_close(found, euler, atol=2e-7, rtol=1e-6)  # (1 - t) + t is not always 1
    if num == 4:
        assert torch.equal(found, euler)
    with pytest.raises(ValueError, match="without noise has no density"):
        transition(noisy(name, 0.0), 4, 1).log_prob(noise, noise)


@pytest.mark.parametrize("name", ["cps", "anchored"])
def test_at_full_noise_a_rule_renoises(name: str) -> None:
    for num in (4, 100):
        assert law(noisy(name, 1.0), num) == pytest.approx(law(rule_of({"name": "renoise"}), num), abs=1e-12)
    ours, renoise = (transition(rule, 4, 1) for rule in (noisy(name, 1.0), rule_of({"name": "renoise"})))
    for part in ("x_weight", "v_weight", "std"):
        torch.testing.assert_close(getattr(ours, part), getattr(renoise, part))


def transition(rule, num: int, index: int) -> Transition:
    return rule.transition(grid_like(even(num).times, torch.zeros((), dtype=torch.float64)), torch.tensor([index]))


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_transitions_mean_and_std_are_the_rules(name: str) -> None:
    x, z = (torch.randn(3, 1, dtype=torch.float64, generator=stream(0, letter)) for letter in "xz")
    velocity, t = gaussian(LINEAR, 0.7, 0.4), torch.full((3,), 1.0, dtype=torch.float64)
    step = transition(EVERY[name], 5, 0)
    expected = step.mean(x, velocity(x, t)) + step.std * z
    found = sample(velocity, x, even(5).times, EVERY[name], rng=lambda _k, _x: z, keep=(1,)).states[0]
    torch.testing.assert_close(found, expected)


def test_cps_has_as_much_noise_as_the_time_says_on_a_point_and_the_sdes_have_more() -> None:
    """On a point D is exact and e is what the state has; a step from t adds g^2 h^2 / t + g^4 h^2 / (4 t^2) to t'^2."""
    num, index = 5, 2
    t, t_next, h = 0.6, 0.4, 0.2

    def variance(name: str, level: float) -> float:
        step = transition(noisy(name, level), num, index)
        gain = step.x_weight + step.v_weight / t  # of x - (1 - t) m, since v = (x - m) / t there
        return (gain**2 * t**2 + step.std**2).item()

    for level in (0.0, 0.5, 1.0):
        assert variance("cps", level) == pytest.approx(t_next**2, rel=1e-12)
        assert variance("anchored", level) == pytest.approx(t_next**2, rel=1e-12)
    for name, g2 in (("flow_sde", 0.7**2 * t / (1 - t)), ("dance_sde", 0.7**2)):
        excess = g2**2 * h**2 / (4 * t**2) + g2 * h**2 / t
        assert variance(name, 0.7) == pytest.approx(t_next**2 + excess, rel=1e-12)


def test_a_step_of_cps_has_the_known_variance() -> None:
    """Var(x') = ((1 - t') (1 - t) s2 + c t' t)^2 / V + t'^2 (1 - c^2); of no length at t = .5 it keeps .9523."""
    c, t, whole = math.cos(0.7 * math.pi / 2), 0.5, 0.25 * S2 + 0.25
    for t_next in (0.5 - 1e-12, 0.2):
        times = torch.tensor([1.0, t, t_next, 0.0], dtype=torch.float64)
        step = noisy("cps", 0.7).transition(times, torch.tensor([1]))
        rate = (t - (1 - t) * S2) / whole  # v = rate x + ...
        found = (step.x_weight + step.v_weight * rate) ** 2 * whole + step.std**2
        known = ((1 - t_next) * (1 - t) * S2 + c * t_next * t) ** 2 / whole + t_next**2 * (1 - c**2)
        assert found.item() == pytest.approx(known, rel=1e-9)
        if t_next > 0.4:
            assert found.item() / whole == pytest.approx(0.9523, abs=1e-4)


def test_an_anchor_keeps_the_law_of_an_exact_map() -> None:
    """x_s of N(m, s2) at s = .3, brought to .6 by a = .5714 and beta = .5750, has the marginal of .6."""
    times = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    step = noisy("anchored", 0.5).transition(times, torch.tensor([0]))
    assert (step.x_weight.item(), step.std.item()) == pytest.approx((0.5714, 0.5750), abs=5e-5)
    assert (step.v_weight / step.x_weight).item() == pytest.approx(-0.7)  # from 1 to .3
    anchor = 0.7**2 * S2 + 0.3**2
    assert (step.x_weight**2 * anchor + step.std**2).item() == pytest.approx(0.4**2 * S2 + 0.6**2, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "level", "share", "variance"),
    [
        ("euler", 0.0, 0.290, 0.774), ("flow_sde", 0.7, 0.309, 0.847), ("flow_sde", math.sqrt(2), 0.331, 0.896),
        ("dance_sde", 0.3, 0.291, 0.784), ("cps", 0.7, 0.261, 0.707),
    ],
)  # fmt: skip
def test_ten_steps_on_a_mixture(name: str, level: float, share: float, variance: float) -> None:
    rng = stream(0, "mixture")
    noise = torch.randn(40_000, dtype=torch.float64, generator=rng)
    x = sample(lambda x, t: mixture_velocity(x, t[0].item()), noise, even(10).times, noisy(name, level), rng=rng).x0
    assert (x < 0).double().mean().item() == pytest.approx(share, abs=0.008)
    assert x.var().item() == pytest.approx(variance, abs=0.015)


def test_a_kernel_steps_along_the_flow_path_alone() -> None:
    with pytest.raises(ValueError, match=r"rule 'cps' steps along the linear path, not along vp_cosine"):
        sample(lambda x, _t: x, torch.zeros(1), (0.9, 0.5), noisy("cps", 0.7), path=VP_COSINE, rng=stream(0, "z"))
