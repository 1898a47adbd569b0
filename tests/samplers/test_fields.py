"""What holds of every field; fields by themselves are in files of their own."""

from dataclasses import dataclass, fields, replace

import pytest
import torch

from stages.core.config import check
from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.core.spec import SamplerSpec
from stages.core.spec import even as evenly
from stages.models import Student
from stages.models.conditioning import OneHot
from stages.models.space import Points
from stages.samplers import drive, rule_of
from stages.samplers.field import Field, State
from stages.samplers.fields import FIELDS, field_of, over
from stages.samplers.grid import build
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from stages.samplers.spec import Sampler, calls
from stages.samplers.student import Noise, draw, solutions
from tests.samplers.blocks import transformer
from tests.samplers.rigs import choice, mixture_data

pytestmark = pytest.mark.slow

EVERY = {name: field_of(choice("field", name)) for name in FIELDS if not FIELDS[name].tokens and name != "nasa"}
"""But nasa, which asks for a negative prompt."""
X = torch.randn(6, 2, 2, 2, generator=stream(0, "fields"))
COND = torch.tensor([[1], [2], [1], [3], [2], [1]])
STEPS = 12
WRITTEN = {"taylor_seer", "mag_cache", "guidance_interval", "epsilon_scaling", "dual_fast", "t_stitch", "time_tuner"}
"""Those that a saved model's own pipeline repeats."""
NEUTRAL = {
    "taylor_seer": {"every": 1},
    "mag_cache": {"threshold": 0.0, "ratios": (0.9,)},
    "guidance_interval": {"until": 0.0, "since": 1.0},
    "epsilon_scaling": {"scale": 1.0, "slope": 0.0},
    "dual_fast": {"most": 0.0},
    "tea_cache": {"threshold": 0.0},
    "sada": {"most": 0, "interval": 1},
    "guidance_reuse": {"every": 1},
    "time_shift": {"half_width": 0.0},
    "time_tuner": {"scales": (1.0,)},
    "t_stitch": {"share": 0.0},
    "early_exit": {"blocks": (3,)},
    "first_block_cache": {"threshold": 0.0},
    "token_merging": {"share": 0.0},
    "light_cache": {"every": 1},
    "bottleneck": {"until": 0.99, "since": 1.0},
    "quantised": {"weight_bits": None, "activation_bits": None},
    "pab": {"every": 1},
    "faster_cache": {"every": 1, "empty_every": 1},
    "ras": {"share": 1.0},
}
"""Knobs with which a field is the network itself."""


class Joint:
    """Attention to all alike, unless some are said to count more."""

    def heads(self, tokens, words):
        one = torch.cat([tokens, words], dim=1)[:, None]
        return one, one, one.cos()

    def mixed(self, query, _key, value, num_tokens, bias=None):
        shares = torch.zeros_like(value[..., :1]) if bias is None else bias.transpose(2, 3)
        made = (0.5 * query + (shares.softmax(2) * value).sum(2, keepdim=True))[:, 0]
        return made[:, :num_tokens], made[:, num_tokens:]

    def __call__(self, tokens, words):
        return self.mixed(*self.heads(tokens, words), tokens.shape[1])


@dataclass(frozen=True)
class Opened:
    """Three blocks, each of which adds something of the state, the time, the prompt and the other tokens."""

    x: torch.Tensor
    time: torch.Tensor
    state: torch.Tensor
    tokens: torch.Tensor
    words: torch.Tensor

    def after(self, blocks, attend=None):
        tokens, words, joint = self.tokens, self.words, Joint()
        for block in blocks:
            seen, read = joint(tokens, words) if attend is None else attend(block, joint, tokens, tokens, words)
            tokens = tokens + 0.1 * torch.sin((block + 1) * self.state + self.time + tokens) + 0.1 * seen
            words = words + 0.1 * read
        return replace(self, tokens=tokens, words=words)

    def take(self, rows):
        parts = ("x", "time", "state", "tokens", "words")
        return Opened(**{name: getattr(self, name)[rows] for name in parts})

    def at(self, tokens):
        some = [each.gather(1, tokens[..., None].expand(-1, -1, 2)) for each in (self.state, self.tokens)]
        return replace(self, state=some[0], tokens=some[1])

    def patches(self):
        t = self.time
        exact = (self.state - mixture_data(self.state, 1 - t, t)).to(self.x) / t
        return exact + self.tokens

    def pixels(self, patches):
        return patches.reshape(self.x[: len(patches)].shape)

    def answer(self):
        return self.pixels(self.patches())

    def attention_work(self, _block, tokens, seen):
        return tokens + seen

    def other_work(self, _block, tokens):
        return 2 * tokens

    def share(self, work):
        return work / (3 * 4 * self.tokens.shape[1])


class Net(torch.nn.Module):
    """A mixture's velocity, and what blocks add."""

    num_blocks = 3
    multiple = 1

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)]).requires_grad_(False)
        self.blocks[0].weight.copy_(torch.tensor([[0.3, -0.71], [0.5, 0.2]]))

    def forward(self, x, t, cond):
        return self.opened(x, t, cond).after(range(3)).answer()

    def opened(self, x, t, cond):
        tokens = x.reshape(len(x), -1, 2)
        prompts = 0.2 * cond.reshape(-1, 1, 1).to(x)
        return Opened(x, t.reshape(-1, 1, 1), tokens, self.blocks[0](tokens) + prompts, prompts.repeat(1, 1, 2))


net = Net()


def made(answers, rows=slice(None), steps=STEPS, guidance=2.0):
    grid = build(LINEAR, uniform(steps))
    return over(answers)(Prompted(net, COND[rows], guidance), grid, X[rows])


def run(answers, rule="dpmpp_2m", rows=slice(None), steer=None, **how):
    field = made(answers, rows, **how)
    return drive(field, X[rows], rule, rng=stream(1, "draws"), steer=steer)


@pytest.mark.parametrize("rule", ["euler", "heun", "dpmpp_2m", "unipc", "renoise", "restart"])
@pytest.mark.parametrize("name", EVERY)
def test_contract_of_every_field(name, rule):
    before = torch.get_rng_state()
    rule = rule_of(choice("rule", rule))
    solution = run(EVERY[name], rule)
    assert solution.x0.isfinite().all()
    assert solution.x0.shape == X.shape
    assert solution.x0.dtype == X.dtype
    assert 0 < solution.nfe <= run(None, rule).nfe
    assert torch.equal(solution.x0, run(EVERY[name], rule).x0), "same arguments, bitwise the same sample"
    assert torch.equal(before, torch.get_rng_state()), "draw from rng, never from the global stream"


@pytest.mark.parametrize("name", EVERY)
def test_it_does_something(name):
    plain, under = run(None), run(EVERY[name])
    assert not torch.equal(plain.x0, under.x0)


@pytest.mark.parametrize(("name", "knobs"), NEUTRAL.items())
@pytest.mark.parametrize("rule", ["heun", "unipc"])
def test_with_knobs_that_change_nothing_it_is_the_network(name, knobs, rule):
    plain, under = run(None, rule), run(replace(EVERY[name], **knobs), rule)
    assert torch.equal(plain.x0, under.x0)
    assert (under.nfe, under.cost) == (plain.nfe, plain.cost)


def test_every_field_has_knobs_that_change_nothing():
    assert NEUTRAL.keys() == EVERY.keys()


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_does_not_depend_on_the_others_in_its_batch(name):
    whole, parts = run(EVERY[name]), [run(EVERY[name], rows=slice(b, b + 1)) for b in range(len(X))]
    torch.testing.assert_close(torch.cat([part.x0 for part in parts]), whole.x0, atol=1e-6, rtol=1e-6)
    assert sum(part.nfe for part in parts) / len(X) == pytest.approx(whole.nfe)
    assert sum(part.cost for part in parts) / len(X) == pytest.approx(whole.cost)


@pytest.mark.parametrize("name", EVERY)
def test_two_runs_at_once_do_not_mix(name):
    rule, alone = rule_of({"name": "dpmpp_2m"}), [run(EVERY[name], rows=rows) for rows in (slice(0, 3), slice(3, 6))]
    both = [made(EVERY[name], rows) for rows in (slice(0, 3), slice(3, 6))]
    states = [State(X[:3]), State(X[3:])]
    for node in range(STEPS):
        states = [rule.step(field, state, node, None) for field, state in zip(both, states, strict=True)]
    assert all(torch.equal(state.x, one.x0) for state, one in zip(states, alone, strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_what_it_remembers_follows_samples_that_change_places(name):
    """Of the same prompt, since prompts stay where they are."""
    order, rows = torch.tensor([2, 0, 1]), [0, 2, 5]

    def swap(_field, state, node):
        return state.take(order) if node == 5 else state

    swapped, plain = run(EVERY[name], rows=rows, steer=swap), run(EVERY[name], rows=rows)
    assert torch.equal(swapped.x0, plain.x0[order])


@pytest.mark.parametrize("name", EVERY)
def test_samples_that_a_steering_makes_anew_are_not_given_what_others_left(name):
    """At the middle all samples are put at their beginning again, with no memory: only the times are other ones."""

    def restart(_field, state, node):
        return State(X) if node == 6 else state

    assert run(EVERY[name], steer=restart).x0.isfinite().all()


@pytest.mark.parametrize("rule", ["euler", "heun", "unipc", "pndm"])
@pytest.mark.parametrize("name", EVERY)
def test_a_saved_pipeline_repeats_it_or_it_cannot_be_carried(name, rule):
    spec = SamplerSpec(
        rule=choice("rule", rule),
        schedule={"name": "uniform", "steps": STEPS},
        times=evenly(STEPS).times,
        guidance=2.0,
        field=choice("field", name),
    )
    if name not in WRITTEN:
        with pytest.raises(ValueError, match=f"sampler rule {rule} under field {name} .*: a saved pipeline only"):
            program(spec)
        return
    guided, values = Prompted(net, COND, 2.0), [X]
    for kind, *given in program(spec):
        match kind:
            case "velocity":
                value = guided(values[given[0]], torch.full((6,), given[1]))
            case "plain":
                value = guided.plain(values[given[0]], torch.full((6,), given[1]))
            case "scale":
                value = given[1] * values[given[0]]
            case "add":
                value = torch.add(values[given[0]], values[given[1]], alpha=given[2])
        values.append(value)
    field = over(EVERY[name])(guided, build(LINEAR, spec.times), X)
    assert torch.equal(values[-1], drive(field, X, rule_of(spec.rule)).x0)


def stated(**changes):
    section = {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 8}, "guidance": 2.0}
    return check(Sampler, {**section, **changes}, "s")


@pytest.mark.parametrize("name", EVERY)
def test_a_sampler_is_stated_with_one_and_counts_its_calls(name):
    spec = stated(field=choice("field", name)).spec
    assert check(SamplerSpec, {**vars(spec), "times": list(spec.times)}, "own") == spec
    model = Student(transformer(), spec, Points((1, 4, 4)), OneHot([""]))
    solution, *_ = solutions(model, torch.tensor([[1], [2]]), Noise(0, "fields"), batch_size=2)
    counted = calls(spec)
    assert solution.cost == counted if EVERY[name].fixed else solution.cost <= counted
    whole, parts = (draw(model, torch.tensor([[1], [2], [3]]), Noise(0, "x"), batch_size=size) for size in (3, 2))
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_no_field_is_the_network_itself():
    assert over(field_of(None)) is Field
    assert stated().spec == replace(evenly(8), guidance=2.0)
    assert calls(stated().spec) == 16


def test_a_misspelt_one_lists_what_there_is():
    with pytest.raises(ValueError, match=r"s\.field\.name: 'taylor' is none of taylor_seer, .*did you mean"):
        stated(field={"name": "taylor"})
    with pytest.raises(ValueError, match=r"s\.field\.every: Input should be greater"):
        stated(field={**choice("field", "taylor_seer"), "every": 0})


def test_averages_are_asked_of_the_network_alone():
    with pytest.raises(ValueError, match=r"rule flow_map asks the network for averages.*leave the field out"):
        stated(field=choice("field", "taylor_seer"), rule={"name": "flow_map", "depth": 0.0})


def test_knobs_are_all_told():
    for name, answers in EVERY.items():
        assert {field.name for field in fields(answers)} == choice("field", name).keys()
