"""What a training counts, against counts at the layers themselves; and what losses see of networks in bfloat16."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stages.core.config import check
from stages.core.precision import wide_type
from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import World
from stages.distillers import METHODS
from stages.models import Student
from stages.models.conditioning import OneHot
from stages.models.discriminator import Discriminator
from stages.models.network import seeded_build
from stages.models.space import Pixels
from stages.models.transformer import TransformerConfig, VelocityTransformer
from stages.policies import POLICIES
from stages.samplers.student import Noise, draw
from stages.training.budget import Budget
from stages.training.cost import KINDS, TOTALS, Cost, Meter
from stages.training.loop import Trainer
from stages.training.networks import world_of
from stages.training.roles import Start, heads_of
from tests.test_contracts import on_nodes, underway
from tests.training.layers import Layers
from tests.training.tiny import TinyNet, of_roles
from tests.training.words import named, rows, table

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[2] / "params"
MODULES: dict[str, ModuleType] = {**METHODS, **POLICIES}
SIZE = TransformerConfig(kind="transformer", width=8, num_layers=2, num_heads=1, patch_size=2)
PROMPTS = [f"a {weight} {digit}" for weight in ("bold", "thin") for digit in range(4)]
ASKED = [Prompt(""), *map(Prompt, PROMPTS)]
SPACE = Pixels((1, 4, 4))
ROWS = 8
BF16 = torch.bfloat16


def settings(name: str, **changes: Any) -> Any:
    """The method's shipped knobs, with `changes` where it has them."""
    text = yaml.safe_load((PARAMS / ("distiller" if name in METHODS else "policy") / f"{name}.yaml").read_text())
    known = {field.name for field in fields(MODULES[name].Config)}
    cfg = check(MODULES[name].Config, {key: value for key, value in text.items() if key in known}, name)
    return replace(cfg, **{key: value for key, value in changes.items() if key in known})


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small lose by sharing their work out, on a busy machine by a factor of ten."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def network(seed: int) -> VelocityTransformer:
    net = seeded_build(seed, SIZE, (1, 4, 4), table(PROMPTS))
    # An output layer of zeros, as this transformer has at first, passes no gradient on.
    nn.init.normal_(net.body.proj_out.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return net


def batch_at(iteration: int, count: int = ROWS) -> dict[str, Tensor]:
    """Two prompts in groups, and whatever a method may need."""
    rng = stream(5, "batch", iteration)
    order = torch.randperm(len(PROMPTS), generator=rng)[:2].repeat_interleave(count // 2)
    x0, noise = (torch.randn(count, 1, 4, 4, generator=rng) for _ in range(2))
    return {
        "x0": x0,
        "noise": noise,
        "cond": rows(order),
        **on_nodes(noise, x0),
        "group": torch.arange(2).repeat_interleave(count // 2),
    }


def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    return images.flatten(1).mean(dim=1) * torch.tensor([1.0 + ASKED.index(prompt) for prompt in prompts])


def trainer(name: str, cfg: Any, judge: Any = reward, *, precision: Any = "float32", slices: int = 1) -> Trainer:
    budget = Budget(
        iterations=9, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision=precision, slices=slices
    )  # fmt: skip
    told = named(MODULES[name], cfg, len(PROMPTS))
    start = Start(init=network(1), teacher=network(2), space=SPACE, reward=judge, prompts=ASKED, rows=told)
    return Trainer(MODULES[name], cfg, budget, start, seed=3, device="cpu")


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("name", MODULES)
def test_a_trainings_cost_is_what_its_layers_saw(name: str, slices: int) -> None:
    judged = []

    def judge(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        judged.append(len(images))
        return reward(images, prompts)

    made = underway(trainer(name, settings(name, nfe=2, guidance=1.5), judge, slices=slices))
    layers = Layers(made)
    for iteration in range(2):
        made.step(batch_at(iteration))
    cost = made.cost
    assert cost.heads.keys() == set(heads_of(made.roles))
    for heads, group in ((False, cost.networks), (True, cost.heads)):
        for role, counts in group.items():
            assert counts == layers.counts(role, head=heads), role
    assert {*cost.networks, *cost.heads} == set(made.world.nets)
    assert cost.scored == sum(judged)
    rounds = cost.scored / (2 * ROWS)  # several where each branch, or each update, is scored
    assert rounds >= 1 if name in POLICIES else rounds == 0
    learnt = cost.networks["student"]
    assert learnt["backward"] + learnt["backward_part"] >= 2 * ROWS


def test_dmd2_counts_the_features_that_its_head_reads() -> None:
    """A batch of 8, one step, three critic updates: 128 samples go through a network, 56 of them through its half."""
    made = trainer("dmd2", settings("dmd2", nfe=1, guidance=1.0, critic_updates=3))
    made.step(batch_at(0))
    assert made.cost.networks["student"] == dict(zip(KINDS, (32, 0, 8, 0), strict=True))
    assert made.cost.networks["fake"] == dict(zip(KINDS, (32, 0, 24, 0), strict=True))
    assert made.cost.networks["teacher"] == dict(zip(KINDS, (8, 56, 0, 8), strict=True))
    assert made.cost.heads["head"] == dict(zip(KINDS, (56, 0, 56, 0), strict=True))
    assert made.cost.totals == dict(zip(TOTALS, (128, 56, 40, 8, 0), strict=True))


def test_costs_add_up() -> None:
    meter = Meter(["teacher", "head"])
    meter.add("teacher/forward", 5)
    meter.add("head/forward", 7)
    first = Cost.of(meter.names, meter.take(), heads=["head"])
    meter.add("scored", 2)
    both = first + Cost.of(meter.names, meter.take(), heads=["head"]) + first
    assert both.networks["teacher"]["forward"] == both.totals["network_evaluations"] == 10
    assert both.heads["head"]["forward"] == 14
    assert both.scored == 2


def test_what_is_not_counted_cannot_be_called() -> None:
    student = trainer("kd", settings("kd")).world.nets["student"]
    with pytest.raises(AttributeError, match="hidden_states"):
        student.hidden_states(torch.zeros(1))


def _noted(call: Callable[..., Tensor], into: set[torch.dtype], *inputs: Tensor) -> Tensor:
    answer = call(*inputs)
    into.add(answer.dtype)
    return answer


@pytest.mark.parametrize("name", MODULES)
def test_networks_compute_in_bfloat16_and_answer_in_float32(name: str) -> None:
    made, inside, answers = trainer(name, settings(name, nfe=2, guidance=1.5), precision="bfloat16"), set(), set()
    for outer in made.world.nets.values():
        for net in (m for m in outer.modules() if isinstance(m, VelocityTransformer | Discriminator)):
            last = net.body[-1] if isinstance(net, Discriminator) else getattr(net.body, "inner", net.body).proj_out
            last.register_forward_hook(lambda _layer, _inputs, output: inside.add(output.dtype))
        outer.register_forward_hook(lambda _net, _inputs, output: answers.add(output.dtype))
        outer.fields = partial(_noted, outer.fields, answers)  # which some call alone
    metrics = made.step(batch_at(0))
    assert inside == {BF16}
    assert answers == {torch.float32}
    assert all(math.isfinite(float(value)) for value in metrics.values())
    assert all(p.dtype == torch.float32 for p in made.weights.nets["student"].parameters())


class Rounded(nn.Module):
    """A network whose answers are rounded to bfloat16, and then in the type `told`."""

    def __init__(self, net: nn.Module, told: torch.dtype) -> None:
        super().__init__()
        self.net, self.told = net, told
        if hasattr(net, "feature_dim"):
            self.feature_dim = net.feature_dim

    def forward(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        wide = (x.float() if x.is_floating_point() else x for x in inputs)
        told = {name: x.float() if x.is_floating_point() else x for name, x in more.items()}
        return self.net(*wide, **told).to(BF16).to(self.told)

    def fields(self, *inputs: Tensor) -> Tensor:
        return self.net.fields(*inputs).to(BF16).to(self.told)

    def features(self, *inputs: Tensor) -> Tensor:
        return self.net.features(*inputs).to(BF16).to(self.told)

    def beside(self, *inputs: Tensor) -> Tensor:
        return self.net.beside(*inputs).to(BF16).to(self.told)


def rounded_world(name: str, cfg: Any, told: torch.dtype) -> World:
    nets = {role: Rounded(net.float(), told) for role, net in of_roles(MODULES[name].roles(cfg)).items()}
    made = world_of(nets, SPACE, (reward, ASKED, (1.0,)), Meter(nets), precision="float32", device="cpu")
    return replace(made, rows=named(MODULES[name], cfg, len(PROMPTS)))


def outcomes(name: str, cfg: Any, told: torch.dtype) -> list[Tensor]:
    """What is shared, and every phase's loss, metrics and gradients."""
    world, module = rounded_world(name, cfg, told), MODULES[name]
    with torch.no_grad():
        shared = module.prepare(world, batch_at(0), stream(0, "prepare"), cfg)
    found = [value for value in shared.values() if value.is_floating_point()]
    with torch.no_grad():  # an update later, which is when ratios and clips come to life
        for p in world.nets["student"].parameters():
            p.add_(0.01)
    for phase in module.phases(cfg):
        value, metrics = phase.loss(world, shared, stream(0, phase.name), cfg)
        weights = [p for role in phase.trains for p in world.nets[role].parameters()]
        slopes = torch.autograd.grad(value, weights, allow_unused=True)
        found += [value, *(torch.as_tensor(v) for v in metrics.values()), *(g for g in slopes if g is not None)]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_a_loss_on_bfloat16_answers_is_that_on_the_same_numbers_in_float32(name: str) -> None:
    cfg = settings(name, nfe=2, guidance=1.5)
    narrow, wide = outcomes(name, cfg, BF16), outcomes(name, cfg, torch.float32)
    assert len(narrow) == len(wide)
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


class NothingNarrow(TorchFunctionMode):
    """Refuses arithmetic on two tensors of which one is bfloat16; casting one is no arithmetic."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [x for x in args if isinstance(x, Tensor)]
        if len(inputs) > 1 and any(x.dtype == BF16 for x in inputs):
            raise AssertionError(f"{getattr(func, '__name__', func)} on {[x.dtype for x in inputs]}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MODULES)
def test_no_loss_does_arithmetic_on_bfloat16(name: str) -> None:
    with NothingNarrow():
        outcomes(name, settings(name, nfe=2, guidance=1.5), BF16)


def test_arithmetic_on_bfloat16_would_be_found() -> None:
    with NothingNarrow(), pytest.raises(AssertionError, match="sub"):
        torch.ones(2, dtype=BF16) - torch.ones(2, dtype=BF16)


def test_noise_is_drawn_in_float32_whatever_the_network_computes_in() -> None:
    assert Pixels((1, 4, 4), torch.float64).noise(2, stream(0, "noise")).dtype == torch.float64
    narrow = Pixels((1, 4, 4), BF16).noise(2, stream(0, "noise"))
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, SPACE.noise(2, stream(0, "noise")))


def test_guidance_in_a_sampler_is_formed_in_float32() -> None:
    def sampled(told: torch.dtype) -> Tensor:
        net = Rounded(TinyNet(0).float(), told)
        return draw(Student(net, even(3, guidance=4.0), SPACE, OneHot([""])), rows([3, 5]), Noise(0, "x"))

    assert sampled(BF16).dtype == torch.float32
    assert torch.equal(sampled(BF16), sampled(torch.float32))


def test_wider_types_stay() -> None:
    assert [wide_type(dtype) for dtype in (BF16, torch.float16, torch.float32, torch.float64)] == [
        torch.float32, torch.float32, torch.float32, torch.float64,
    ]  # fmt: skip
