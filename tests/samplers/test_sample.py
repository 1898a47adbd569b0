import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages.core.path import LINEAR, VP_COSINE, VP_LINEAR
from stages.core.rng import normal_at, stream
from stages.samplers import drive, sample
from stages.samplers.field import Field
from stages.samplers.grid import build
from stages.samplers.schedules import uniform
from stages.samplers.unipc import corrector_weights, phi
from tests.samplers.rigs import CALLS, EVERY, F64, NOISY, gaussian

NOISE = torch.randn(3, 1, 2, 2, generator=stream(0, "noise"))
VELOCITY = gaussian(LINEAR, 0.7, 0.4)


def run(rule, n=4, **options):
    return sample(VELOCITY, NOISE, uniform(n), EVERY.get(rule, rule), rng=stream(1, "draws"), **options)


@pytest.mark.parametrize("rule", sorted(EVERY.keys() - {"edm_heun"}))
def test_contract_of_every_rule(rule):
    calls = []

    def watched(x, t):
        calls.append(t)
        assert t.shape == (len(x),)
        assert t.is_contiguous()
        assert x.dtype == t.dtype == NOISE.dtype
        return VELOCITY(x, t)

    before = torch.get_rng_state()
    solution = sample(watched, NOISE, uniform(4), EVERY[rule], keep=(0, 2, 4), rng=stream(1, "draws"))
    assert solution.nfe == len(calls) == CALLS.get(rule, 4)
    assert all(t.min() > 0 for t in calls), "no rule asks for the velocity at data"
    assert solution.states.shape == (3, *NOISE.shape)
    assert torch.equal(solution.states[0], NOISE)
    assert torch.equal(solution.states[2], solution.x0)
    assert solution.x0.dtype == NOISE.dtype
    assert solution.x0.isfinite().all()
    assert torch.equal(solution.x0, run(rule).x0), "same arguments, bitwise the same sample"
    assert torch.equal(before, torch.get_rng_state()), "draw from rng, never from the global stream"


@pytest.mark.parametrize("rule", sorted(EVERY.keys() - {"edm_heun", *NOISY}))
def test_chunks_do_not_matter(rule):
    parts = [sample(VELOCITY, part, uniform(4), EVERY[rule]).x0 for part in NOISE.split(1)]
    assert torch.equal(torch.cat(parts), run(rule).x0)


def test_kept_states_are_those_of_the_nodes_named():
    states = run("euler", keep=(3, 1)).states
    x = NOISE
    for i, (t, s) in enumerate([(1.0, 0.75), (0.75, 0.5), (0.5, 0.25)], start=1):
        x = x + (s - t) * VELOCITY(x, torch.full((3,), t))
        if i == 1:
            assert torch.allclose(states[1], x, atol=1e-6)
    assert torch.allclose(states[0], x, atol=1e-6)
    assert run("euler").states.shape == (0, *NOISE.shape)


def test_euler_on_the_flow_path_is_exact_to_the_last_bit_from_pure_noise():
    assert torch.equal(run("euler", 1).x0, NOISE - VELOCITY(NOISE, torch.ones(3)))


def test_one_step_of_renoise_is_one_step_of_euler():
    assert torch.allclose(run("renoise", 1).x0, run("euler", 1).x0, atol=1e-7)


def test_renoise_draws_the_law_of_the_next_time():
    """Two steps on N(m, s^2): D(., 1) = m, so x_.5 = .5 m + .5 z and x0 = D(x_.5, .5)."""
    z = torch.randn(NOISE.shape, generator=stream(1, "draws"))
    half = 0.5 * 0.7 + 0.5 * z
    data = 0.7 + 0.5 * 0.16 / (0.25 * 0.16 + 0.25) * (half - 0.35)
    assert torch.allclose(run("renoise", 2).x0, data, atol=1e-6)


def test_renoise_noise_can_follow_the_global_index():
    def drawn(start):
        return lambda node, x: normal_at(5, f"renoise/{node}", start, len(x), tuple(x.shape[1:]))

    whole = sample(VELOCITY, NOISE, uniform(3), "renoise", rng=drawn(0)).x0
    parts = [sample(VELOCITY, NOISE[[i]], uniform(3), "renoise", rng=drawn(i)).x0 for i in range(3)]
    assert torch.equal(whole, torch.cat(parts))


def test_renoise_without_rng_says_what_to_pass():
    with pytest.raises(ValueError, match="pass rng"):
        sample(VELOCITY, NOISE, uniform(2), "renoise")


def test_a_misspelt_rule_lists_the_rules():
    with pytest.raises(ValueError, match=r"rule\.name: 'eular' is none of euler, .*unipc.*; did you mean 'euler'\?"):
        run("eular")


def test_a_rule_with_knobs_is_not_called_by_its_name_alone():
    with pytest.raises(ValueError, match=r"rule\.noise_level: missing"):
        sample(VELOCITY, NOISE, uniform(2), "cps")


BAD_TIMES = [[1.0], [1.0, 0.5, 0.5, 0.0], [0.0, 1.0], [1.0, float("nan"), 0.0], [[1.0, 0.0]]]


@pytest.mark.parametrize("times", BAD_TIMES)
def test_times_that_do_not_fall_are_refused(times):
    with pytest.raises(ValueError, match="falling numbers"):
        sample(VELOCITY, NOISE, times, "euler")


def test_a_state_outside_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"index 5; the states are 0 to 4"):
        run("euler", keep=(5,))


def test_edm_heun_cannot_start_from_pure_noise():
    with pytest.raises(ValueError, match="use rule 'heun'"):
        run("edm_heun")


def test_gradients_flow_through_a_run_and_not_out_of_inference():
    scale = torch.tensor(1.0, requires_grad=True)
    sample(lambda x, t: scale * VELOCITY(x, t), NOISE, uniform(3), "unipc").x0.sum().backward()
    assert scale.grad.abs() > 0
    with torch.inference_mode():
        assert run("unipc").x0.isfinite().all()


def test_half_precision_noise_gives_half_precision_samples():
    low = sample(VELOCITY, NOISE.bfloat16(), uniform(4), "dpmpp_2m").x0
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), run("dpmpp_2m").x0, atol=0.05)


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **kwargs or {})


KERNELS = {"euler": 2, "heun": 10, "dpmpp_2m": 6, "unipc": 10, "renoise": 5, "flow_sde": 5, "cps": 5}


@pytest.mark.parametrize(("rule", "kernels"), KERNELS.items())
def test_a_step_costs_a_few_kernels_and_never_waits_for_the_device(rule, kernels):
    def counted(n):
        with Count() as seen:
            sample(lambda x, _t: x, NOISE, uniform(n), EVERY[rule], rng=stream(1, "draws"))
        return seen.names

    counted(4), counted(14)  # a grid is made once, and kept
    few, many = counted(4), counted(14)
    assert len(many) - len(few) <= 10 * kernels
    reads = [sum("_local_scalar_dense" in name for name in names) for names in (few, many)]
    assert reads[0] == reads[1]


@pytest.mark.parametrize("path", [LINEAR, VP_COSINE, VP_LINEAR], ids=lambda p: p.name)
def test_the_grid_recovers_data_and_noise(path):
    grid = build(path, [0.9, 0.4, 0.1])
    x0, eps = 0.3, -1.2
    for i, t in enumerate(grid.times):
        node = t.clone().requires_grad_()
        x = path.alpha(node) * x0 + path.sigma(node) * eps
        (v,) = torch.autograd.grad(x, node)
        assert grid.data[i][0] * x.item() + grid.data[i][1] * v.item() == pytest.approx(x0, abs=1e-12)
        assert grid.noise[i][0] * x.item() + grid.noise[i][1] * v.item() == pytest.approx(eps, abs=1e-12)


def test_phi_functions_meet_where_their_forms_change():
    for k, limit in [(1, 1), (2, 1 / 2), (3, 1 / 6)]:
        assert phi(k, 0.0) == pytest.approx(limit, abs=1e-15)
        assert phi(k, -0.0999999999) == pytest.approx(phi(k, -0.1000000001), abs=1e-9)


def test_corrector_weights_solve_their_equations():
    h, ratio = 0.7, -1.25
    old, new = corrector_weights(h, ratio)
    b = [k * phi(k + 1, -h) * -h / torch.expm1(torch.tensor(-h, dtype=F64)).item() for k in (1, 2)]
    assert old + new == pytest.approx(b[0], rel=1e-12)
    assert old / ratio + new == pytest.approx(b[1], rel=1e-12)
    assert corrector_weights(h, 0.0) == pytest.approx((0.0, b[0]))


class Reusing(Field):
    """Calls the network at every second node and reuses its answer at the next."""

    def velocity(self, x, i):
        if i % 2 == 0:
            self.last = super().velocity(x, i)
        return self.last


def test_a_field_may_call_the_network_at_every_second_node():
    field = Reusing(VELOCITY, build(LINEAR, uniform(8)), NOISE)
    made = drive(field, NOISE, "euler")
    assert made.nfe == 4
    torch.testing.assert_close(made.x0, run("euler", 4).x0)  # two steps with one velocity are one step


@pytest.mark.parametrize("rule", sorted(EVERY.keys() - {"edm_heun"}))
def test_what_a_rule_remembers_follows_samples_that_change_places(rule):
    order, rng, swapped = torch.tensor([2, 0, 1]), stream(1, "draws"), False

    def swap(_field, state, node):
        nonlocal swapped
        swapped = swapped or node == 2
        return state.take(order) if node == 2 else state

    def draw(_node, x):
        noise = torch.randn(x.shape, generator=rng)
        return noise[order] if swapped else noise  # which follows the samples too

    made = sample(VELOCITY, NOISE, uniform(5), EVERY[rule], rng=draw, steer=swap).x0
    assert torch.equal(made, run(rule, 5).x0[order])


def test_particles_with_a_reward_are_resampled_midway():
    """Data N(m, s^2), particles weighed by exp(r D) at t = 1/2: their mean ends at m + r a s^3 / std(x_t)."""
    mean, std, tilt, middle = 0.7, 0.4, 2.0, 8
    velocity, rng = gaussian(LINEAR, mean, std), stream(0, "particles")

    def resample(field, state, node):
        if node != middle:
            return state
        weights = (tilt * field.data(state.x, node).flatten()).exp()
        return state.take(torch.multinomial(weights, len(weights), replacement=True, generator=rng))

    noise = torch.randn((40_000, 1, 1, 1), generator=rng, dtype=F64)
    plain, steered = (sample(velocity, noise, uniform(2 * middle), "heun", steer=each) for each in (None, resample))
    shift = tilt * 0.5 * std**3 / math.sqrt(0.25 * std**2 + 0.25)
    assert plain.x0.mean().item() == pytest.approx(mean, abs=0.01)
    assert steered.x0.mean().item() == pytest.approx(mean + shift, abs=0.01)
    assert steered.nfe == plain.nfe + 1
