"""What every family holds to, on a tiny random checkpoint that is read from its folder like any other."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import METHODS
from stages.models import Student, TextTable, adapters, export, load, lookup, save, space_of
from stages.models.families.noise import NoiseSchedule
from stages.models.latents import Latents
from stages.models.pretrained import PipelineText, Pretrained, build
from stages.models.table import Batches, Index, joined, trimmed
from stages.policies import POLICIES
from stages.samplers.student import Noise, draw
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.method import Trained
from stages.training.roles import Start
from stages.training.tune import Lora, tuning
from tests.composed import params_of
from tests.models.families import stock, tiny
from tests.test_contracts import changed, on_nodes, settings, underway
from tests.training.words import named

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[3] / "params"
FAMILIES = list(tiny.BUILDERS)
BUDGET = Budget(iterations=9, ema=0.5, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
LORA = Lora(kind="lora", rank=2, alpha=4.0, targets="default", checkpointing=False, compile=False)
MODULES = {**METHODS, **POLICIES}
WHOLE = ("sd3", "sdxl")
"""Families that every method takes a step on; on the others those below do."""
OTHERS = ("cd", "dmd2", "tdm", "dgpo")
"""Of images and of prompts, with a follower, with a head on features, with a critic, with a reward."""
VARIANTS = {"rcm": "scm", "sana_sprint": "scm", "tcm": "ect"}
"""Presets with networks that the knobs of their method leave out -> that method."""
STEPS = [(family, name) for family in FAMILIES for name in MODULES if family in WHOLE or name in OTHERS]


class Rig:
    """A family's checkpoint, as it is read."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.at = export.found(str(tiny.saved(name, folder)), tiny.options(name))
        self.at.check()
        prompts = ["", *tiny.PROMPTS]
        self.encoder = PipelineText(self.at, "cpu")
        self.table = TextTable(prompts, self.encoder.encode(prompts))
        self.net: Pretrained = build(self.at, self.table)
        self.space = Latents.of(self.at)

    def noise(self, count: int) -> Tensor:
        return self.space.noise(count, stream(0, "noise"))


_RIGS: dict[str, Rig] = {}


@pytest.fixture(params=FAMILIES)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    name = request.param
    if name not in _RIGS:
        _RIGS[name] = Rig(name, tmp_path_factory.mktemp(name) / "checkpoint")
    return _RIGS[name]


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_velocity_is_the_stock_pipelines(rig: Rig) -> None:
    """Four steps of the pipeline, with its own scheduler, guidance and text, are ours to the last digits."""
    ours, theirs, times = stock.both(rig, steps=4, guidance=3.0)
    if not isinstance(rig.at.family, NoiseSchedule) and rig.name != "sd3":  # whose last step is nearly none
        assert gap(torch.tensor(rig.at.family.levels(rig.at, 4)), torch.tensor(times)) < 1e-3, "some begin at 0.9997"
    assert gap(ours, theirs) < 2e-6, "float32; PixArt divides what is predicted by a = 1/157"


def test_latents_go_there_and_back_in_slices(rig: Rig) -> None:
    x = rig.noise(3)
    images = rig.space.decode(x)
    assert 0 <= images.min() <= images.max() <= 1
    options = rig.at.options
    assert images.shape == (3, 3, *([options.frames] if options.frames else []), options.height, options.width)
    again = rig.space.encode(images)
    assert again.shape == x.shape
    whole = Latents.of(replace(rig.at, options=replace(rig.at.options, slice_size=3)))
    torch.testing.assert_close(whole.encode(images), again)
    torch.testing.assert_close(whole.decode(x), images)


def losses(nets: list[Pretrained], x: Tensor, cond: Tensor) -> Tensor:
    t = torch.tensor([0.4, 0.7])
    first = x - nets[0](x, t, cond)
    return sum(((net(first, t, cond) - first) ** 2).mean() * (place + 1) for place, net in enumerate(nets))  # type: ignore[return-value]


def gradients(net: Pretrained) -> dict[str, Tensor]:
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def twins(rig: Rig, *, checkpointing: bool) -> list[Pretrained]:
    """Two trained roles whose adapters matter, and the teacher."""
    tune = tuning(replace(LORA, checkpointing=checkpointing), 0)
    made: list[Any] = [tune.twin(rig.net) for _ in range(2)]
    for number, net in enumerate(made):
        rng = stream(number, "adapters")
        for tensor in tune.own(net).values():
            tensor.data = 0.1 * torch.randn(tensor.shape, generator=rng)
            tensor.requires_grad_(True)
    return [*made, rig.net]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_roles_on_one_base_learn_as_networks_apart(rig: Rig, checkpointing: bool) -> None:
    """Student, critic and teacher in one backward pass, with and without activation checkpointing."""
    cond, x = torch.tensor([[1], [2]]), rig.noise(2)
    shared = twins(rig, checkpointing=checkpointing)
    losses(shared, x, cond).backward()
    apart = twins(rig, checkpointing=False)
    for net in apart[:2]:
        for name, module in list(net.named_parameters()):
            if not adapters.is_adapter(name):
                module.data = module.data.clone()
    losses(apart, x, cond).backward()
    for one, other in zip(shared[:2], apart[:2], strict=True):
        mine, theirs = gradients(one), gradients(other)
        assert mine.keys() == theirs.keys() != set()
        for name, gradient in mine.items():
            torch.testing.assert_close(gradient, theirs[name])
    assert not gradients(rig.net)


def test_features_are_tokens_that_carry_a_gradient(rig: Rig) -> None:
    x = rig.noise(2).requires_grad_(True)
    found = rig.net.features(x, torch.tensor([0.3, 0.9]), torch.tensor([[1], [0]]))
    assert found.shape[::2] == (2, rig.net.feature_dim)
    found.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_target_that_is_no_layer_is_refused_by_name(rig: Rig) -> None:
    with pytest.raises(ValueError, match="targets: no layer of the network is called to_z; there are "):
        tuning(replace(LORA, targets=("to_q", "to_z")), 0).twin(rig.net)


def test_a_prompt_that_is_cut_is_told_by_how_much(rig: Rig) -> None:
    """Words that are lost can be others without a difference; one more, and the encoders read another prompt."""
    count = 40
    long = " ".join(["a"] * count)
    [(prompt, cut)] = rig.encoder.cut([tiny.PROMPTS[0], long]).items()
    assert prompt == long
    lost = cut - tiny.TAIL.get(rig.name, 0)  # what a template puts behind a prompt is lost first
    read, same, other = (
        rig.encoder.encode([" ".join(["a"] * (count - end) + ["red"] * end)])["hidden"] for end in (0, lost, lost + 1)
    )
    assert torch.equal(read, same)
    assert not torch.equal(read, other)


def test_pads_that_a_mask_tells_apart_may_go(rig: Rig) -> None:
    """The velocity is what it is with all of them; without a mask they are read, and stay."""
    prompts = ["", "red", "a red"]
    whole = TextTable(prompts, rig.encoder.encode(prompts))
    less = TextTable(prompts, trimmed(whole.features))
    assert (less.length < whole.length) == (rig.at.family.masked and rig.at.family.even)
    x, t, cond = rig.noise(3), torch.tensor([0.9, 0.5, 0.1]), torch.arange(3)[:, None]
    with torch.no_grad():
        found, told = (Pretrained(rig.net.body, text, rig.at)(x, t, cond) for text in (less, whole))
    assert gap(found, told) < 2e-6


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_row_on_demand_is_the_tables_to_the_last_bit(rig: Rig, batch_size: int, tmp_path: Path) -> None:
    """In any order, by the encoders that the folder names, whichever prompts are read together."""
    prompts, (model, encode) = ["", *tiny.PROMPTS, "red", "a red"], (tmp_path / "model", tmp_path / "encode")
    export.imported(model, rig.at, even(2), copied=False)
    export.encoders(model, encode / lookup.ENCODERS)
    encoder, shards = PipelineText(rig.at, "cpu", batch_size), (prompts[:4], prompts[4:])
    stored = TextTable(prompts, joined([encoder.encode(shard) for shard in shards]))
    length = max(map(encoder.padded, shards))
    assert length == stored.features["hidden"].shape[1], "told without an encoder"
    Index(prompts=prompts, length=length, batches=Batches(shard_size=4, batch_size=batch_size)).write(encode)
    asked = lookup.table_of(encode)
    for cond in (torch.tensor([[4], [1], [1]]), torch.tensor([[3], [0]]), torch.arange(len(prompts))[:, None]):
        found, told = asked(cond), stored(cond)
        assert all(torch.equal(found[name], told[name]) for name in told)


@pytest.mark.parametrize(("rig", "name"), STEPS, indirect=["rig"])
def test_every_method_takes_a_step(rig: Rig, name: str) -> None:
    takes_a_step(rig, MODULES[name], settings(name, rollout_steps=4))


@pytest.mark.parametrize("preset", VARIANTS)
def test_a_preset_with_further_networks_takes_a_step(rig: Rig, preset: str) -> None:
    section = params_of("experiment=smoke", f"+distiller@distill.arms.it={preset}")
    method, own = METHODS[VARIANTS[preset]], section["distill"]["arms"]["it"]
    known = {field.name for field in fields(method.Config)}
    cfg = check(method.Config, {key: value for key, value in own.items() if key in known}, preset)
    assert len(method.roles(cfg)) > len(method.roles(settings(VARIANTS[preset])))
    takes_a_step(rig, method, cfg)


def takes_a_step(rig: Rig, method: Any, cfg: Any) -> None:
    """With adapters; nothing but them changes, and the student's among them."""
    base = {key: value.clone() for key, value in rig.net.state_dict().items()}
    group = torch.arange(2).repeat_interleave(2)
    x0, noise = (rig.space.noise(4, stream(n, "batch")) for n in range(2))
    batch = {"x0": x0, "noise": noise, **on_nodes(noise, x0), "cond": group[:, None] + 1, "group": group}
    prompts = [Prompt(text) for text in rig.table.prompts]
    start = Start(
        rig.net, rig.net, rig.space, lambda images, _prompts: images.flatten(1).mean(1), prompts,
        rows=named(method, cfg, len(prompts) - 1),
    )  # fmt: skip
    if any(isinstance(role, Trained) and role.told_more for role in method.roles(cfg).values()):
        reason = "has one time|answers a velocity|is told no noise|carries no other|reads no negative prompt"
        with pytest.raises(ValueError, match=rf"a checkpoint's network ({reason})"):
            Trainer(method, cfg, BUDGET, start, seed=0, device="cpu", tuning=tuning(LORA, 0))
        return
    made = underway(Trainer(method, cfg, BUDGET, start, seed=0, device="cpu", tuning=tuning(LORA, 0)))
    metrics = made.step(batch)
    assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
    own = changed(made)
    assert own
    assert all(adapters.is_adapter(key) and value.dtype == torch.float32 for key, value in own.items())
    assert any(value.any() for key, value in own.items() if key.startswith("student:") and ".lora_B." in key)
    after = rig.net.state_dict()  # which takes a while to make
    assert all(torch.equal(after[key], value) for key, value in base.items())


@pytest.mark.parametrize(("rule", "steps"), [("euler", 1), ("euler", 3), ("renoise", 3)])
def test_a_student_is_loaded_by_stock_diffusers(rig: Rig, rule: str, steps: int, tmp_path: Path) -> None:
    """Exported, read again by us and by the code of its README: the same images."""
    student, _, _ = twins(rig, checkpointing=False)
    made = Student(student, even(steps, rule=rule), rig.space, rig.encoder)
    save(tmp_path / "model", made)
    again = load(tmp_path / "model", rig.table)
    cond, noise = torch.tensor([[2]]), Noise(0, "test")
    ours = draw(again, cond, noise)
    assert gap(draw(replace(made, spec=again.spec), cond, noise), ours) < 1e-5
    if rig.at.family.scheduler(rig.at, again.spec) is None:
        assert "has no scheduler for" in (tmp_path / "model/README.md").read_text()
        return
    theirs = stock.sampled(tmp_path / "model", rig, tiny.PROMPTS[1], noise)
    nearly = rule == "euler" and steps > 1 and isinstance(rig.at.family, NoiseSchedule)  # see its `scheduler`
    assert gap(ours, theirs) < (2e-3 if nearly else 1e-5)


def test_a_copied_base_goes_with_its_models(rig: Rig, tmp_path: Path) -> None:
    export.imported(tmp_path / "teacher", rig.at, even(2), copied=True)
    teacher = load(tmp_path / "teacher", rig.table)
    save(tmp_path / "student", Student(tuning(LORA, 0).twin(teacher.net), even(2), rig.space, rig.encoder))
    other = load(tmp_path / "student", rig.table)
    assert other.net.at.folder == tmp_path / "student/base"
    x, t, cond = rig.noise(1), torch.tensor([0.5]), torch.tensor([[1]])
    torch.testing.assert_close(other.net(x, t, cond), rig.net(x, t, cond))
    assert space_of(tmp_path / "student").shape == rig.space.shape
