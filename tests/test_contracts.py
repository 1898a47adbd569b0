"""The words between packages, each shown with something that nothing here was made for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand
from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import METHODS
from stages.models import Student
from stages.models.conditioning import OneHot
from stages.models.policy import made
from stages.models.space import Pixels, Points
from stages.policies import POLICIES
from stages.rewards import Given, weighted
from stages.rewards import terms as rewards_of
from stages.samplers import sample
from stages.samplers.schedules import SCHEDULES
from stages.samplers.student import Noise, draw
from stages.training import flow_matching
from stages.training.budget import Budget
from stages.training.levels import Uniform
from stages.training.loop import Trainer
from stages.training.roles import Adapters, Start, heads_of
from tests.training.gaussian import GaussianVelocity
from tests.training.tiny import TinyNet
from tests.training.words import named

PARAMS = Path(__file__).parents[1] / "params"
MODULES: dict[str, ModuleType] = {**METHODS, **POLICIES}
VIDEO = Points((2, 3, 4, 4))
PROMPTS = [Prompt(""), *(Prompt(f"a {word} thing") for word in ("bright", "dark", "bright", "dark"))]
BUDGET = Budget(iterations=9, ema=0.5, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)


def settings(name: str, **changes: Any) -> Any:
    """A method's shipped knobs, small, with `changes` where it has them."""
    text = yaml.safe_load((PARAMS / ("distiller" if name in METHODS else "policy") / f"{name}.yaml").read_text())
    known = {field.name for field in fields(MODULES[name].Config)}
    cfg = check(MODULES[name].Config, {key: value for key, value in text.items() if key in known}, name)
    return replace(cfg, **{key: value for key, value in {"nfe": 2, **changes}.items() if key in known})


def underway(made: Trainer) -> Trainer:
    """At the iteration at which its student begins to move, which for some methods is not the first."""
    begins = min(phase.start for phase in made.method.phases(made.cfg) if "student" in phase.trains)
    made.iteration = math.ceil(begins * made.budget.iterations)
    return made


def changed(made: Trainer) -> dict[str, Tensor]:
    """What it trains and follows, but heads, which are small and have no base."""
    heads = heads_of(made.roles)
    return {key: value for key, value in made.weights.state().items() if key.split(":")[0] not in heads}


def wanted(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """What a prompt's text asks for: light or dark."""
    sign = torch.tensor([1.0 if "bright" in prompt.text else -1.0 for prompt in prompts])
    return sign * images.flatten(1).mean(1)


def batch_at(shape: tuple[int, ...], iteration: int = 0) -> dict[str, Tensor]:
    """Two groups of four rows, and whatever a method may need."""
    rng, group = stream(5, "batch", iteration), torch.arange(2).repeat_interleave(4)
    x0, noise = (torch.randn(8, *shape, generator=rng) for _ in range(2))
    return {"x0": x0, "noise": noise, **on_nodes(noise, x0), "cond": group[:, None] + 1, "group": group}


def on_nodes(noise: Tensor, x0: Tensor) -> dict[str, Tensor]:
    """Trajectories of one step."""
    times = torch.tensor([[1.0, 0.0]]).repeat(len(x0), 1)
    return {"states": torch.stack([noise, x0], dim=1), "times": times}


@pytest.mark.parametrize("name", MODULES)
def test_every_method_takes_a_step_on_video(name: str) -> None:
    init, teacher = (TinyNet(seed, VIDEO.shape).float() for seed in (0, 1))
    cfg = settings(name)
    start = Start(init, teacher, VIDEO, wanted, PROMPTS, rows=named(MODULES[name], cfg, 2))
    made = underway(Trainer(MODULES[name], cfg, BUDGET, start, seed=0, device="cpu"))
    student = made.weights.nets["student"]
    before = {key: value.clone() for key, value in student.state_dict().items()}
    metrics = made.step(batch_at(VIDEO.shape))
    assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
    assert any(not torch.equal(before[key], value) for key, value in student.state_dict().items())


@pytest.mark.parametrize("rule", ["euler", "heun", "dpmpp_2m", "unipc", "renoise"])
def test_video_is_sampled_by_every_rule_in_batches_of_any_size(rule: str) -> None:
    model = Student(TinyNet(0, VIDEO.shape).float(), even(4, rule=rule, guidance=2.0), VIDEO, OneHot([""]))
    cond = torch.tensor([[1], [2], [3]])
    whole, parts = (draw(model, cond, Noise(0, "video"), batch_size=size) for size in (3, 2))
    assert whole.shape == (3, *VIDEO.shape)
    torch.testing.assert_close(whole, parts)


class HalfBase(nn.Module):
    """A base in bfloat16, and adapters in float32 that are added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = TinyNet(0).to(torch.bfloat16)
        self.adapter = nn.Parameter(torch.zeros(16, 16))
        self.feature_dim = 8

    def add_second_time(self, seed: int) -> None:
        """Its adapter sees the second time as it is."""

    def add_latent_variable(self, size: int, seed: int) -> None:
        """Its adapter sees the noise as it is."""

    def add_negative_reader(self, seed: int) -> None:
        """Its adapter stands for the reader."""

    def add_new_companion(self, size: Any, shape: tuple[int, ...], seed: int) -> None:
        """Its adapter stands for the companion."""

    def beside(self, x: Tensor, t: Tensor, cond: Tensor, told: Tensor) -> Tensor:
        return self(x, t, cond)

    def add_policy(self, choice: Mapping[str, Any], seed: int) -> None:
        """All fields are what it answers."""
        self.policy = made(choice)

    def fields(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self(x, t, cond).repeat_interleave(self.policy.channels(x.shape[1]), dim=1)

    def forward(
        self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None, z: Tensor | None = None, **_more: Tensor
    ) -> Tensor:
        told = (x if until is None else x * (1 + expand(t - until, x))) + (0 if z is None else z)
        moved = (told.flatten(1) @ self.adapter).reshape(x.shape)
        return self.base(x.to(torch.bfloat16), t.to(torch.bfloat16), cond) + moved.to(torch.bfloat16)

    def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.base.features(x.to(torch.bfloat16), t.to(torch.bfloat16), cond)


@pytest.mark.parametrize("name", MODULES)
def test_every_method_trains_adapters_on_a_base_in_bfloat16(name: str) -> None:
    net, space = HalfBase(), Points((1, 4, 4))
    tuning = Adapters(lambda name: name == "adapter")
    cfg = settings(name)
    start = Start(net, net, space, wanted, PROMPTS, rows=named(MODULES[name], cfg, 2))
    made = underway(Trainer(MODULES[name], cfg, BUDGET, start, seed=0, device="cpu", tuning=tuning))
    base = {key: value.clone() for key, value in net.base.state_dict().items()}
    for iteration in range(2):
        metrics = made.step(batch_at(space.shape, iteration))
    assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
    assert (made.weights.nets["student"].adapter != 0).any()
    after = net.base.state_dict()
    assert all(torch.equal(after[key], value) for key, value in base.items())
    networks = changed(made)
    assert {value.dtype for value in networks.values()} == {torch.float32}
    assert {key.partition(":")[2] for key in networks} == {"adapter"}


class Shift(nn.Module):
    """N(0, 1) data moved by what a prompt has learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 1
        self.shifts = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        # The velocity of N(m, 1): the prompt's mean enters it as -m + (2 t - 1) / (..) (x - (1 - t) m).
        mean, t = self.shifts[cond[:, 0]].reshape(-1, 1, 1, 1), t.reshape(-1, 1, 1, 1)
        return -mean + (2 * t - 1) / ((1 - t) ** 2 + t**2) * (x - (1 - t) * mean)


@pytest.mark.parametrize("name", POLICIES)
def test_a_reward_that_reads_the_text_moves_each_prompt_its_own_way(name: str) -> None:
    net, space = Shift(), Pixels((1, 4, 4))
    cfg = settings(name, student_lr=0.02, rollout_steps=4, beta_kl=0.0)
    made = Trainer(MODULES[name], cfg, BUDGET, Start(net, net, space, wanted, PROMPTS), seed=0, device="cpu")
    group = torch.arange(2).repeat_interleave(32)
    for _ in range(8):
        made.step({"cond": group[:, None] + 1, "group": group})
    nothing, bright, dark = made.weights.nets["student"].shifts.tolist()
    assert bright > 0.02
    assert dark < -0.02
    assert nothing == 0, "nobody asked for it"


def test_particles_follow_a_reward_that_reads_their_prompts() -> None:
    """Resampled half-way by what their own prompts ask for; a prompt's particles stay its own."""
    space, middle, each = Pixels((1, 4, 4), torch.float64), 8, 2000
    cond = torch.tensor([1, 2]).repeat_interleave(each)[:, None]
    asked = [PROMPTS[row] for row in cond[:, 0].tolist()]
    net, rng = GaussianVelocity(0.0, 0.6, 4), stream(0, "particles")

    def resample(field: Any, state: Any, node: int) -> Any:
        if node != middle:
            return state
        weights = (20 * wanted(space.decode(field.data(state.x, node)), asked)).exp().reshape(2, each)
        chosen = torch.multinomial(weights, each, replacement=True, generator=rng) + torch.tensor([[0], [each]])
        return state.take(chosen.flatten())

    times = SCHEDULES["shifted"](name="shifted", steps=2 * middle, shift=2.0).times()
    found = {}
    for steer in (None, resample):
        x = space.noise(2 * each, stream(0, "noise"))
        done = sample(lambda x, t: net(x, t, cond), x, times, "dpmpp_2m", steer=steer)
        found[steer] = wanted(space.decode(done.x0), asked).reshape(2, each).mean(1)
    assert (found[resample] > found[None] + 0.02).all()


def test_a_reward_is_one_of_a_table_and_may_be_summed_with_others(tmp_path: Path) -> None:
    section = {
        "small": {"kind": "jpeg", "weight": -1.0, "quality": 90},
        "tiny": {"kind": "jpeg", "weight": -0.5, "quality": 10},
    }
    images = torch.rand(3, 3, 16, 16, generator=stream(0, "images"))
    total = weighted(rewards_of(section, "rewards"), Given(tmp_path, "cpu"))(images, PROMPTS[:3])
    apart = [
        weighted(rewards_of({name: part}, "rewards"), Given(tmp_path, "cpu"))(images, PROMPTS[:3])
        for name, part in section.items()
    ]
    torch.testing.assert_close(total, sum(apart))
    assert (total < 0).all()


def test_a_teacher_may_be_trained_on_video() -> None:
    net = TinyNet(0, VIDEO.shape).float()
    cfg = flow_matching.Config(
        lr=1e-2, condition_dropout=0.1, times=Uniform(name="uniform"), latent=0.0, perturbation=0.0, nfe=2
    )
    budget = replace(BUDGET, iterations=30)
    made = Trainer(flow_matching, cfg, budget, Start(net, net, VIDEO), seed=0, device="cpu")
    losses = [float(made.step(batch_at(VIDEO.shape))["flow/loss"]) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
