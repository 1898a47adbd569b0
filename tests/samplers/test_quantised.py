"""Networks of few bits: what rounding costs, which layers are rounded, and how scales are fitted."""

import copy
import subprocess
import sys
from statistics import NormalDist

import pytest
import torch
from torch import nn

from stages.core.config import check
from stages.core.path import LINEAR
from stages.core.precision import Wide
from stages.core.rng import stream
from stages.models.mixture import GaussianMixture
from stages.models.quantised import best_scale, has_torchao, layers, most, quantised, rounded, stored
from stages.samplers import drive, sample
from stages.samplers.fields import AnyField, field_of, over
from stages.samplers.fits import AnyFit
from stages.samplers.fits.model import Fitting
from stages.samplers.fits.quantised import truncated
from stages.samplers.grid import build
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from tests.samplers.blocks import transformer
from tests.samplers.rigs import F64, choice

pytestmark = pytest.mark.slow

NET = transformer()
X = torch.randn(3, 1, 4, 4, generator=stream(0, "quantised"))
COND = torch.tensor([[1], [2], [3]])
NORMAL = torch.tensor([NormalDist().inv_cdf((i + 0.5) / 40_000) for i in range(40_000)], dtype=F64)[None]


def end(steps=6, net=NET, **knobs):
    answers = field_of({**choice("field", "quantised"), **knobs}) if knobs else None
    return drive(over(answers)(Prompted(net, COND), build(LINEAR, uniform(steps)), X), X, "euler")


@pytest.mark.parametrize(("bits", "scale", "error"), [(4, 0.353416, 0.0128894), (8, 0.0308702, 8.8308e-5)])
def test_the_best_scale_of_a_normal_law_is_known(bits, scale, error):
    found = best_scale(NORMAL, bits)
    assert found.item() == pytest.approx(scale, rel=0.02)
    assert (rounded(NORMAL, found, bits) - NORMAL).square().mean().item() == pytest.approx(error, rel=0.06)


@pytest.mark.parametrize(("std", "relative"), [(0.1, 7.94e-3), (0.25, 1.27e-3), (2.0, 1.298e-2)])
def test_a_scale_of_another_law_costs_far_more(std, relative):
    """At its own law 8.8e-5: under it 90 times as much, beyond it 150."""
    x = std * NORMAL
    error = (rounded(x, 0.0308702, 8) - x).square().mean() / std**2
    assert error.item() == pytest.approx(relative, rel=0.02)


def test_rows_have_scales_of_their_own():
    rows = torch.cat([NORMAL, 10 * NORMAL])
    small, large = best_scale(rows, 8).flatten().tolist()
    assert large == pytest.approx(10 * small)
    assert rounded(torch.tensor([0.26, -9.0]), 0.5, 3).tolist() == [0.5, -1.5]
    assert most(8) == 127


def test_layers_inside_of_blocks_are_rounded_and_no_others():
    names = list(layers(NET))
    assert len(names) == 3 * (6 + 1 + 2) + 2 * (1 + 2)  # the last block has no output for words
    assert all(name.startswith("body.transformer_blocks.") for name in names)
    assert not any("norm" in name for name in names)
    with pytest.raises(ValueError, match="a GaussianMixture has no linear layers"):
        end(net=GaussianMixture.even([[0.0]], [1.0]), weight_bits=8)


def test_the_network_itself_stays_as_it_is():
    before = copy.deepcopy(NET.state_dict())
    made = quantised(NET, 4, 4, ())
    assert all(torch.equal(before[name], value) for name, value in NET.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in layers(NET).values())
    for layer, own in zip(layers(made).values(), layers(NET).values(), strict=True):
        for row, other in zip(layer.weight, own.weight, strict=True):
            assert len(row.unique()) <= 15
            assert (row - other).square().mean() < 0.02 * other.square().mean()


def test_activations_are_rounded_by_the_token_or_by_the_layer():
    heard = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity(), nn.Linear(2, 2)])

        def forward(self, x, _t, _cond):
            self.blocks[1].forward = lambda given: heard.append(given) or given
            return self.blocks[1](x)

    x = torch.tensor([[[1.0, 0.4], [10.0, 4.0]]])
    for scales, expected in (((), [[1.0, 1 / 3], [10.0, 10 / 3]]), ((0.5,), [[1.0, 0.5], [1.5, 1.5]])):
        quantised(Net(), None, 3, scales)(x, None, None)
        torch.testing.assert_close(heard[-1], torch.tensor([expected]))


def test_fewer_bits_are_no_better_and_what_they_lose_more_steps_do_not_bring_back():
    plain = end().x0
    errors = [(end(weight_bits=bits, activation_bits=bits).x0 - plain).square().mean().item() for bits in (16, 8, 5, 3)]
    assert errors == sorted(errors)
    assert errors[0] < 1e-6
    fine = sample(Prompted(NET, COND), X, uniform(96), "euler").x0
    rough = [(end(steps, weight_bits=3, activation_bits=3).x0 - fine).square().mean().sqrt() for steps in (24, 96)]
    assert rough[1] > 0.5 * rough[0]
    assert (end(24).x0 - fine).square().mean().sqrt() < 0.5 * rough[1]


def test_as_many_calls_as_without():
    made = end(weight_bits=8)
    assert (made.nfe, made.cost) == (6, 6)


def fit(**knobs):
    given = {**choice("fit", "quantised"), "rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 10}}
    return check(AnyFit, {**given, **knobs}, "fit")


def test_scales_are_fitted_one_a_layer_and_used():
    model = Fitting(Wide(NET), COND, X, X, lambda word: stream(1, word))
    before = torch.get_rng_state()
    made = fit(guidance=2.0).fitted(model)
    assert len(made.field.scales) == len(layers(NET))
    assert fit(guidance=2.0).fitted(model).field == made.field
    assert made.guidance == 2.0
    assert torch.equal(before, torch.get_rng_state())
    plain, stated = end(10).x0, made.stated["field"]
    ends = [end(10, **{**stated, "scales": [k * each for each in made.field.scales]}).x0 for k in (1, 8)]
    near, far = ((each - plain).abs().max() for each in ends)
    assert 0 < near < 0.3 * far


class Seen(nn.Module):
    """dx/dt = -1, and a layer that is shown the state and the time."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])

    def forward(self, x, t, _cond):
        self.blocks[0](torch.stack([x[:, 0, 0, 0], t], dim=1))
        return torch.full_like(x, -1)


def test_a_state_is_seen_at_its_own_time():
    """From 0 at t = 1 the state is 1 - t: at 0.3 the larger of both is 0.7, at 0.9 it is the time."""
    zeros = torch.zeros(4, 1, 1, 1)
    model = Fitting(Seen(), torch.ones(4, 1, dtype=torch.int64), zeros, zeros, lambda word: stream(1, word))
    made = fit(mean=0.3, std=1e-3, activation_bits=16).fitted(model)
    assert made.field.scales[0] * most(16) == pytest.approx(0.7, rel=1e-3)
    late = fit(mean=0.9, std=1e-3, activation_bits=16).fitted(model)
    assert late.field.scales[0] * most(16) == pytest.approx(0.9, rel=1e-3)


def test_times_are_a_normal_law_without_its_ends():
    """Clipped, 15.87 % of them were 0 and 6.68 % were 1."""
    times = truncated(20_000, 0.4, 0.4, stream(0, "times"))
    assert 0 <= times.min() < times.max() <= 1
    assert (times < 0.01).double().mean() < 0.02
    assert (times > 0.99).double().mean() < 0.02
    law, low, high = NormalDist(0.4, 0.4), NormalDist(0.4, 0.4).cdf(0), NormalDist(0.4, 0.4).cdf(1)
    assert (times < 0.4).double().mean().item() == pytest.approx((law.cdf(0.4) - low) / (high - low), abs=0.01)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="scales has 2 numbers, and the network 33 layers to round"):
        end(weight_bits=8, activation_bits=8, scales=[0.1, 0.1])
    with pytest.raises(ValueError, match="scales are of activations, and activation_bits is null"):
        check(AnyField, {**choice("field", "quantised"), "activation_bits": None, "scales": [0.1]}, "field")
    with pytest.raises(ValueError, match="rule flow_map asks the network otherwise"):
        fit(rule={"name": "flow_map", "depth": 0.0})


def test_weights_have_a_scale_for_each_output():
    net = nn.Module()
    net.blocks = nn.ModuleList([nn.Linear(64, 2)])
    with torch.no_grad():
        net.blocks[0].weight.copy_(torch.cat([NORMAL[:, ::625].float(), 1000 * NORMAL[:, ::625].float()]))
    small, large = quantised(net, 8, None, ()).blocks[0].weight
    torch.testing.assert_close(1000 * small, large)


STORED = pytest.mark.skipif(not has_torchao(), reason="the extra torchao")


def test_without_torchao_its_backend_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("stages.models.quantised.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"backend=torchao: it is not installed; pip install 'fewstep\[torchao\]'"):
        field_of({**choice("field", "quantised"), "backend": "torchao"})
    assert field_of({"name": "quantised", "weight_bits": 8, "activation_bits": 8, "scales": []}).backend == "rounded"


def test_torchao_is_imported_by_who_asks_for_it_alone():
    code = (
        "import sys, stages.samplers.fields, stages.samplers.fits; assert not any('torchao' in m for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@STORED
@pytest.mark.parametrize(
    "knobs", [{"weight_bits": 4}, {"activation_bits": 6}, {"scales": [0.1]}, {"weight_bits": None}]
)
def test_torchao_stores_eight_bits_alone(knobs):
    with pytest.raises(ValueError, match="backend=torchao: weights have 8 bits, activations 8 or null, and scales"):
        field_of({**choice("field", "quantised"), "backend": "torchao", **knobs})


@STORED
@pytest.mark.parametrize("activations", [False, True])
def test_what_torchao_stores_is_rounded_at_the_largest_number(activations):
    """Of a row of weights, and of a token: scales of the largest / 127.5, and no error beyond half of one."""
    net = nn.Module()
    net.blocks = nn.ModuleList([nn.Linear(32, 24).requires_grad_(False)])
    net.head = nn.Linear(24, 24).requires_grad_(False)
    made, x = stored(net, activations=activations), torch.randn(2, 5, 32, generator=stream(0, "x"))
    weight, held = net.blocks[0].weight, made.blocks[0].weight
    scale = weight.abs().amax(dim=1, keepdim=True) / 127.5
    torch.testing.assert_close(held.scale, scale)
    rows = held.qdata * scale
    assert ((rows - weight).abs() <= scale * 0.50001).all()
    apart = (made.blocks[0](x) - x @ rows.T - net.blocks[0].bias).abs()
    bound = x.abs().amax(dim=-1, keepdim=True) / 127.5 * 0.50001 * rows.abs().sum(dim=1) if activations else 0
    assert (apart <= bound + 1e-5).all()
    assert (apart.max() > 1e-4) == activations
    assert made.blocks[0].weight.qdata.dtype == torch.int8
    assert type(made.head.weight) is type(net.blocks[0].weight) is nn.Parameter


@STORED
@pytest.mark.parametrize("activation_bits", [None, 8])
def test_stored_or_rounded_the_samples_are_nearly_the_same(activation_bits):
    before = copy.deepcopy(NET.state_dict())
    knobs = {"weight_bits": 8, "activation_bits": activation_bits}
    plain, rounds, holds = end(), end(**knobs), end(**knobs, backend="torchao")
    lost, apart = ((each.x0 - plain.x0).square().mean().sqrt() for each in (rounds, holds))
    assert 0 < apart < 2 * lost
    assert (holds.nfe, holds.cost) == (6, 6)
    assert all(torch.equal(before[name], value) for name, value in NET.state_dict().items())
    with pytest.raises(ValueError, match="a GaussianMixture has no linear layers"):
        end(net=GaussianMixture.even([[0.0]], [1.0]), **knobs, backend="torchao")
