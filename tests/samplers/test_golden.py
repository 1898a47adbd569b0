"""Golden numbers of the solver sheet: order tables on a mixture, and closed forms on Gaussians."""

import math

import pytest
import torch

from stages.core.path import LINEAR, VP_COSINE, VP_LINEAR
from stages.samplers import rule_of, sample
from stages.samplers.schedules import power_levels, times_at, uniform
from tests.samplers.rigs import F64, OF_PATHS, START, exact_end, gaussian, log_grid, mixture, order

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def truth():
    return exact_end(VP_LINEAR, START, 1.0, 0.01)


SA = {"name": "sa_solver", "tau": 0.0, "until": 0.0, "since": 1.0, "few_steps": False}
# Rules with knobs, by the name of their row.
KNOBS = {
    "tab1": {"name": "deis", "order": 1, "basis": "t"},
    "tab3": {"name": "deis", "order": 3, "basis": "t"},
    "tab4": {"name": "deis", "order": 4, "basis": "t"},
    "log_rho_ab2": {"name": "deis", "order": 2, "basis": "log_rho"},
    "log_rho_ab3": {"name": "deis", "order": 3, "basis": "log_rho"},
    "gradient_estimation_2": {"name": "gradient_estimation", "gamma": 2.0, "mu": 0.0},
    "gradient_estimation_1.5": {"name": "gradient_estimation", "gamma": 1.5, "mu": 0.0},
    "er_2": {"name": "er_sde", "phi": "rho", "terms": "2"},
    "er_3": {"name": "er_sde", "phi": "rho", "terms": "3"},
    "er_3_as_published": {"name": "er_sde", "phi": "rho", "terms": "3_as_published"},
    "sa_1": {**SA, "predictor": 1, "corrector": 0},
    "sa_3_4": {**SA, "predictor": 3, "corrector": 4},
    "ghvb_1.8": {"name": "momentum", "order": 2, "beta": 0.8, "form": "ghvb"},
    "heavy_ball_1.8": {"name": "momentum", "order": 2, "beta": 0.8, "form": "heavy_ball"},
    "conjugate_-1": {"name": "conjugate", "scale": -1.0},
    "conjugate_1": {"name": "conjugate", "scale": 1.0},
    "bdia_1": {"name": "bdia", "gamma": 1.0},
    "bdia_0.5": {"name": "bdia", "gamma": 0.5},
    "plms4": {"name": "pndm", "order": 4, "warm_up": "none"},
    "dpmpp_3m_as_shipped": {"name": "dpmpp_3m", "eta": 0.0, "curvature": 1},
    "dpmpp_3m_repaired": {"name": "dpmpp_3m", "eta": 0.0, "curvature": 2},
}
# Of these rows the grid is Karras's, or even in t; of the others in log(sigma / alpha).
OF_RHO, OF_TIME = {"edm_heun", "ghvb_1.8", "heavy_ball_1.8"}, {"plms4", "conjugate_-1", "conjugate_1"}


def as_rule(row):
    return rule_of(KNOBS.get(row, {"name": row}))


def vp_error(rule, n, truth):
    if rule in OF_RHO:
        hi, lo = VP_LINEAR.rho(torch.tensor([1.0, 0.01], dtype=F64)).tolist()
        times = times_at(power_levels(n + 1, hi=hi, lo=lo), VP_LINEAR)
    elif rule in OF_TIME:
        times = torch.linspace(1.0, 0.01, n + 1, dtype=F64)
    else:
        times = log_grid(VP_LINEAR, 2 * n if rule == "dpmpp_2s" else n, 1.0, 0.01)
    end = sample(mixture(VP_LINEAR), START, times, as_rule(rule), path=VP_LINEAR).x0
    return (end - truth).square().mean().sqrt().item()


# RMSE at N = 10, 20, 40 steps and the slope from 80 to 160, to 4 digits.
TABLE = {
    "euler": (1.793e-1, 8.995e-2, 4.504e-2, 1.00),
    "dpmpp_2m": (4.245e-2, 1.164e-2, 2.860e-3, 2.01),
    "unipc": (3.702e-2, 4.789e-3, 6.277e-4, 2.99),
    "edm_heun": (1.339e-1, 2.896e-2, 6.749e-3, 2.02),
    "tab1": (1.793e-1, 8.995e-2, 4.504e-2, 1.00),
    "tab3": (2.370e-2, 3.725e-3, 5.186e-4, 2.94),
    "tab4": (8.179e-3, 2.006e-3, 2.557e-4, 3.80),
    "log_rho_ab2": (4.817e-2, 1.313e-2, 3.432e-3, 1.99),
    "gradient_estimation_2": (8.885e-2, 6.286e-2, 3.760e-2, 0.93),
    "gradient_estimation_1.5": (3.130e-2, 8.246e-3, 2.103e-3, 2.00),
    "er_2": (7.153e-2, 1.658e-2, 3.877e-3, 2.03),
    "er_3": (4.785e-2, 6.107e-3, 7.103e-4, 3.05),
    "er_3_as_published": (6.570e-2, 1.322e-2, 2.736e-3, 2.09),
    "sa_1": (1.793e-1, 8.995e-2, 4.504e-2, 1.00),
    "sa_3_4": (2.402e-2, 1.634e-3, 8.208e-5, 3.98),
    "ghvb_1.8": (6.175e-2, 1.635e-2, 4.093e-3, 2.03),
    "heavy_ball_1.8": (1.343e-1, 6.057e-2, 2.875e-2, 1.02),
    "conjugate_-1": (7.199e-2, 1.743e-2, 5.773e-3, 0.97),
    "conjugate_1": (5.017e-1, 2.122e-1, 9.949e-2, 1.02),
    "bdia_1": (1.944e-2, 2.579e-3, 6.982e-4, 2.00),
    "bdia_0.5": (5.807e-2, 2.970e-2, 1.495e-2, 1.00),
    "plms4": (3.315e-2, 6.022e-3, 5.330e-4, 1.99),
    "dpmpp_2s": (3.015e-2, 8.131e-3, 2.103e-3, 1.99),
    "dpmpp_3m_as_shipped": (3.470e-2, 4.143e-3, 8.766e-4, 2.00),
    "dpmpp_3m_repaired": (2.500e-2, 2.661e-3, 3.221e-4, 3.03),
    "log_rho_ab3": (1.108e-2, 1.164e-3, 1.226e-4, 2.97),
}


@pytest.mark.parametrize("rule", TABLE)
def test_errors_on_a_mixture_are_the_tabulated_ones(rule, truth):
    *errors, slope = TABLE[rule]
    assert [vp_error(rule, n, truth) for n in (10, 20, 40)] == pytest.approx(errors, rel=6e-4)
    halved = vp_error(rule, 80, truth) / vp_error(rule, 160, truth)
    assert math.log2(halved) == pytest.approx(slope, abs=0.006)


@pytest.mark.parametrize(
    ("rule", "expected"), [("euler", 1), ("heun", 2), ("pseudo_corrector", 2), ("dpmpp_2m", 2), ("unipc", 3)]
)
def test_order_on_the_flow_path_away_from_its_ends(rule, expected):
    assert order(rule, LINEAR) == pytest.approx(expected, abs=0.1)


@OF_PATHS
def test_euler_shrinks_a_gaussian_by_a_product_of_cosines(path):
    """std of N-step DDIM over the exact std = prod cos(theta_i - theta_{i+1}), theta = arctan(rho / c)."""
    std, times = 0.4, torch.tensor([0.97, 0.8, 0.55, 0.3, 0.04], dtype=F64)
    end = sample(gaussian(path, 0.0, std), torch.ones(1, dtype=F64), times, "euler", path=path).x0
    alpha, sigma = path.alpha(times), path.sigma(times)
    spread = (alpha**2 * std**2 + sigma**2).sqrt()
    cosines = torch.arctan(sigma / alpha / std).diff().cos().prod()
    assert end.item() == pytest.approx((spread[-1] / spread[0] * cosines).item(), rel=1e-12)


FLOW_STD = {1: 0.0, 2: 0.137931, 4: 0.259757, 8: 0.325113, 100: 0.393498}


@pytest.mark.parametrize(("n", "std"), FLOW_STD.items())
def test_euler_std_on_the_flow_path_from_pure_noise(n, std):
    noise = torch.tensor([1.3, 0.3], dtype=F64)
    end = sample(gaussian(LINEAR, 0.7, 0.4), noise, uniform(n), "euler").x0
    assert (end[0] - end[1]).item() == pytest.approx(std, abs=5e-7)
    assert end.mean().item() == pytest.approx(0.7 + std * 0.8, abs=1e-6)


COSINE_STD = {1: 0, 2: 0.2, 4: 0.333441, 8: 0.411375, 16: 0.453928, 1024: 0.499248}


@pytest.mark.parametrize(("n", "std"), COSINE_STD.items())
def test_euler_std_on_the_cosine_path_from_pure_noise(n, std):
    one = torch.ones(1, dtype=F64)
    end = sample(gaussian(VP_COSINE, 0.0, 0.5), one, uniform(n), "euler", path=VP_COSINE).x0
    assert end.item() == pytest.approx(std, abs=5e-7)


@pytest.mark.parametrize("rule", ["heun", "dpmpp_2m", "unipc"])
def test_from_pure_noise_to_data_every_rule_converges_to_the_exact_map(rule):
    """The exact map of N(m, s^2) is x0 = m + s eps; both ends are singular in log(alpha / sigma)."""
    noise = torch.tensor([1.3, -0.4], dtype=F64)
    gaps = [
        (sample(gaussian(LINEAR, 0.7, 0.4), noise, uniform(n), rule).x0 - (0.7 + 0.4 * noise)).abs().max()
        for n in (64, 256)
    ]
    assert math.log2(gaps[0] / gaps[1]) / 2 > 1.6  # measured: heun 2.0, dpmpp_2m 1.7, unipc 2.0; euler 0.99
    assert gaps[1] < 2e-4


@pytest.mark.parametrize("rule", ["euler", "heun", "dpmpp_2m", "unipc"])
def test_a_straight_flow_needs_one_step(rule):
    """After an exact reflow v = -m + (1-s)(x-(1-t)m) / ((1-t)s+t): 1.3 -> 1.22 in any number of steps."""

    def straight(x, t):
        return -0.7 + 0.6 * (x - (1 - t) * 0.7) / ((1 - t) * 0.4 + t)

    for n in (1, 3):
        end = sample(straight, torch.tensor([1.3], dtype=F64), uniform(n), rule).x0
        if n == 1 or rule in {"euler", "heun"}:  # constant v is not constant D: multistep rules bend it
            assert end.item() == pytest.approx(1.22, abs=1e-12)


def test_the_pseudo_corrector_is_heun_where_the_velocity_does_not_depend_on_the_state():
    """Its next slope is then the true one; in one call a step, and one in all for the step to data."""

    def rising(_x, t):
        return 3 - 2 * t

    times = torch.tensor([1.0, 0.7, 0.4, 0.2], dtype=F64)
    heun, pseudo = (sample(rising, START, times, rule) for rule in ("heun", "pseudo_corrector"))
    torch.testing.assert_close(pseudo.x0, heun.x0)
    assert (heun.nfe, pseudo.nfe) == (6, 4)
    assert sample(rising, START, uniform(4), "pseudo_corrector").nfe == 4


def test_the_pseudo_correctors_second_step_by_hand():
    velocity = gaussian(LINEAR, 0.7, 0.4)
    times = torch.tensor([1.0, 0.6, 0.3], dtype=F64)
    x, t = START, times[:, None].expand(3, len(START))
    first = velocity(x, t[0])
    second = velocity(x - 0.4 * first, t[1])
    x = x - 0.2 * (first + second)
    third = velocity(x - 0.3 * second, t[2])
    expected = x - 0.15 * (second + third)
    torch.testing.assert_close(sample(velocity, START, times, "pseudo_corrector").x0, expected)
