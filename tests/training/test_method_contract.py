"""What holds for every method, whatever it is: the loop may rely on this, and on nothing else."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
import yaml
from torch import Tensor

from stages.core.config import check
from stages.core.derivative import Forward
from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.core.types import World
from stages.distillers import METHODS
from stages.distillers.imagine_flash import Shifted
from stages.distillers.sfd_unlearn import Override
from stages.models.space import Points
from stages.models.transformer import TransformerConfig
from stages.policies import POLICIES
from stages.policies.direct import Last
from stages.policies.spo import Learnt
from stages.training.cost import Meter
from stages.training.flow_matching import Told
from stages.training.kept import Ends
from stages.training.method import Follower, Trained, needs_of
from stages.training.networks import world_of
from stages.training.windows import Sliding
from tests.training.tiny import of_roles
from tests.training.words import named

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[2] / "params"
MODULES: dict[str, ModuleType] = {**METHODS, **POLICIES}
NUM_GROUPS, GROUP_SIZE = 4, 6


def section(name: str) -> dict[str, Any]:
    """The method's own fields as the shipped parameters state them; the arm's common ones lie beside them."""
    group = "distiller" if name in METHODS else "policy"
    text = yaml.safe_load((PARAMS / group / f"{name}.yaml").read_text())
    return {f.name: text[f.name] for f in fields(MODULES[name].Config)}


WIDE = {"nfe": 2, "guidance": 1.5, "drift_bound": 1e3, "margin": 0.0}
"""Networks here are further apart than in a training, and their heads surer of nothing."""


def shipped(name: str) -> Any:
    """Its configuration, with steps and guidance where it has them: one step, or none, hides half of the code."""
    cfg = check(MODULES[name].Config, section(name), name)
    return replace(cfg, **{key: value for key, value in WIDE.items() if key in section(name)})


def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Two, of different ranges."""
    bright = images.flatten(1).mean(dim=1) * torch.tensor([1 + prompt.facts["worth"] for prompt in prompts])
    return torch.stack([bright, 9 * images[:, 0, 0, 0].tanh()], dim=1)


def world(module: ModuleType, cfg: Any) -> World:
    """Networks that all differ, as they do after a few iterations; only the trained ones want gradients."""
    roles = module.roles(cfg)
    nets = of_roles(roles)
    for name, net in nets.items():
        net.requires_grad_(isinstance(roles.get(name), Trained))
    if getattr(cfg, "told", None):
        for seed, net in enumerate(nets.values()):
            net.add_latent_variable(0, seed)  # type: ignore[operator]
    prompts = [Prompt("", {"worth": row % 3}) for row in range(6)]
    space, judge = Points((1, 4, 4), torch.float64), (reward, prompts, (1.0, -0.1))
    made = world_of(nets, space, judge, Meter(nets), precision="float32", device="cpu")
    return replace(made, rows=named(module, cfg, 5))


def batch(module: ModuleType, cfg: Any) -> dict[str, Tensor]:
    rng = stream(7, "batch")
    n = NUM_GROUPS * GROUP_SIZE
    cond = torch.randint(1, 6, (NUM_GROUPS, 1), generator=rng).repeat_interleave(GROUP_SIZE, dim=0)
    made = {"cond": cond}
    needs = needs_of(module, cfg)
    if needs != "prompts":
        made["x0"] = torch.randn((n, 1, 4, 4), generator=rng, dtype=torch.float64)
    if needs in ("pairs", "trajectories"):
        made["noise"] = torch.randn((n, 1, 4, 4), generator=rng, dtype=torch.float64)
    if needs == "trajectories":
        made["states"] = torch.stack([made["noise"], made["noise"] + made["x0"], made["x0"]], dim=1)
        made["times"] = torch.tensor([[1.0, 0.3, 0.0]], dtype=torch.float64).repeat(n, 1)
    if needs == "prompts":
        made["group"] = torch.arange(NUM_GROUPS).repeat_interleave(GROUP_SIZE)
    return made


def losses(
    module: ModuleType, cfg: Any, seed: int = 0, progress: float = 0.1, iteration: int = 150
) -> dict[str, tuple[float, float]]:
    """Every phase's loss and the size of its gradient, each with its own stream; what they share has one of its own."""
    nets, found = replace(world(module, cfg), progress=progress, iteration=iteration), {}
    with torch.no_grad():
        prepared = module.prepare(nets, batch(module, cfg), stream(0, "prepare"), cfg)
        for p in nets.nets["student"].parameters():  # an update later, which is when clipping wakes up
            p.add_(0.01)
    for phase in module.phases(cfg):
        value = phase.loss(nets, prepared, stream(seed, phase.name), cfg)[0]
        weights = [p for role in phase.trains for p in nets.nets[role].parameters()]
        slopes = torch.autograd.grad(value, weights, allow_unused=True)
        found[phase.name] = (value.item(), sum(g.abs().sum().item() for g in slopes if g is not None))
    return found


@pytest.mark.parametrize("name", MODULES)
def test_roles_name_a_student_and_every_phase_trains_what_has_an_optimiser(name: str) -> None:
    module, cfg = MODULES[name], shipped(name)
    roles = module.roles(cfg)
    assert isinstance(roles["student"], Trained)
    assert "teacher" not in roles, "the teacher is always there, frozen"
    trained = [role for phase in module.phases(cfg) for role in phase.trains]
    assert set(trained) == {role for role, kind in roles.items() if isinstance(kind, Trained)}
    followed = [kind.of for kind in roles.values() if isinstance(kind, Follower)]
    assert set(followed) <= set(trained)


@pytest.mark.parametrize("name", MODULES)
def test_each_phase_is_finite_and_teaches_its_own_networks_and_no_other(name: str) -> None:
    module, cfg = MODULES[name], shipped(name)
    for phase in module.phases(cfg):
        nets = world(module, cfg)
        with torch.no_grad():
            prepared = module.prepare(nets, batch(module, cfg), stream(0, "prepare"), cfg)
        value, metrics = phase.loss(nets, prepared, stream(0, phase.name), cfg)
        assert value.dim() == 0
        assert value.isfinite()
        assert all(torch.as_tensor(number).numel() == 1 for number in metrics.values())
        assert not any(isinstance(number, Tensor) and number.requires_grad for number in metrics.values())
        value.backward()
        for role, net in nets.nets.items():
            norm = sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None)
            assert (norm > 0) == (role in phase.trains), f"{phase.name}: gradient {norm} at {role}"


@pytest.mark.parametrize("name", MODULES)
def test_the_same_seed_gives_the_same_loss_and_another_seed_another_if_the_loss_draws(name: str) -> None:
    module, cfg = MODULES[name], shipped(name)
    once, again, other = losses(module, cfg, 3), losses(module, cfg, 3), losses(module, cfg, 4)
    assert once == again
    for phase in module.phases(cfg):
        changed = once[phase.name] != other[phase.name]
        assert changed == phase.draws, f"{phase.name}: draws={phase.draws}, and the loss says otherwise"


@pytest.mark.parametrize("name", MODULES)
def test_the_global_random_stream_is_untouched(name: str) -> None:
    before = torch.get_rng_state()
    losses(MODULES[name], shipped(name))
    assert torch.equal(before, torch.get_rng_state()), "draw from rng, never from the global stream"


@pytest.mark.parametrize("name", MODULES)
def test_no_loss_writes_into_its_inputs(name: str) -> None:
    module, cfg = MODULES[name], shipped(name)
    nets, given = world(module, cfg), batch(module, cfg)
    kept = {key: value.clone() for key, value in given.items()}
    weights = {role: [p.clone() for p in net.parameters()] for role, net in nets.nets.items()}
    prepared = module.prepare(nets, given, stream(0, "prepare"), cfg)
    for phase in module.phases(cfg):
        phase.loss(nets, prepared, stream(0, phase.name), cfg)
    assert given.keys() == kept.keys()
    assert all(torch.equal(given[key], kept[key]) for key in kept)
    for role, net in nets.nets.items():
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), weights[role], strict=True))


def turned(cfg: Any, field: str) -> Any:
    """Another value that the field admits and that should matter."""
    value, kind = getattr(cfg, field), get_type_hints(type(cfg))[field]
    if get_origin(kind) is Literal:
        return next(word for word in get_args(kind) if word != value)
    words = {
        "reach": (0.5, 0.6),
        "betas": (0.4, 0.8),
        "advantage_clip": 0.3,  # below any group's largest
        "clip_range": 1e3,  # networks this far apart are clipped everywhere at the shipped value
        "t_min": 0.31,
        "t_max": 0.7,
        "overrides": (Override(forget="a thin upright 7", show=""),),
        "levels": (0.5,),
        "cutoff": 0.4,  # between waves that samples this small have
        "nfe": 4,  # some take powers of two
        "num_steps": 16,
        "steps": 1,
        "num_phases": 1,
        "widest": 0.04,
        "told": Told(factor=2, dropout=0.0),
        "kept": Ends(name="ends", share=0.5),
        "window": Sliding(name="sliding", size=3, passes=1.0, rest_share=1.0),
        "derivative": Forward(name="jvp"),
        **dict.fromkeys(
            ("refiner", "variance"),
            TransformerConfig(kind="transformer", width=16, num_layers=2, num_heads=2, patch_size=2),
        ),
        "judge": Learnt(name="learnt", first=0.2, updates=1, lr=1e-3),
        "goal": Shifted(name="shifted", high=0.8, low=0.2),
        "route": Last(name="last", steps=1),  # with two steps in all there is no longer one
        "target_clip": 1e-2,  # as with clip_range
        "drift_bound": 1e-9,
        "level_shape": (2.0, 3.0),
    }
    if field in words:
        return words[field]
    if is_dataclass(value):  # a choice with knobs of its own
        inner = next(f.name for f in fields(value) if f.name != "name")
        return replace(value, **{inner: turned(value, inner)})
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value / 2 if value else 0.3


def fingerprint(module: ModuleType, cfg: Any) -> object:
    """All that a configuration decides."""
    roles = {
        role: [kind.decay(update) for update in (1, 48, 50, 5000)] if isinstance(kind, Follower) else kind
        for role, kind in module.roles(cfg).items()
    }
    phases = [replace(phase, loss=None) for phase in module.phases(cfg)]
    return roles, phases, losses(module, cfg), losses(module, cfg, progress=0.9), module.sampler(cfg)


@cache
def shipped_fingerprint(name: str) -> object:
    return fingerprint(MODULES[name], shipped(name))


KNOBS = [(name, f.name) for name, m in MODULES.items() for f in fields(m.Config) if f.name != "method"]


@pytest.mark.parametrize(("name", "field"), KNOBS)
def test_every_knob_is_live(name: str, field: str) -> None:
    module, cfg = MODULES[name], shipped(name)
    try:
        found, other = shipped_fingerprint(name), replace(cfg, **{field: turned(cfg, field)})
    except ValueError:  # which does not go with guidance
        cfg = replace(cfg, guidance=1.0)
        found, other = fingerprint(module, cfg), replace(cfg, **{field: turned(cfg, field)})
    assert fingerprint(module, other) != found


@pytest.mark.parametrize("name", MODULES)
def test_the_same_knobs_are_the_same(name: str) -> None:
    assert fingerprint(MODULES[name], shipped(name)) == shipped_fingerprint(name)


@pytest.mark.parametrize("name", MODULES)
def test_configurations_refuse_what_they_do_not_know(name: str) -> None:
    module = MODULES[name]
    with pytest.raises(ValueError, match=r"arms\.x\.studentlr: unknown parameter; did you mean 'student_lr'"):
        check(module.Config, {**section(name), "studentlr": 1.0}, "arms.x")
    with pytest.raises(ValueError, match="student_lr: missing"):
        check(module.Config, {k: v for k, v in section(name).items() if k != "student_lr"}, "arms.x")
    with pytest.raises(ValueError, match=r"student_lr: .*greater than 0"):
        check(module.Config, {**section(name), "student_lr": 0.0}, "arms.x")
    with pytest.raises(ValueError, match="method"):
        check(module.Config, {**section(name), "method": "other"}, "arms.x")


@pytest.mark.parametrize("name", MODULES)
def test_a_method_is_called_what_its_file_is_called(name: str) -> None:
    assert MODULES[name].__name__.endswith(f".{name}")
    assert section(name)["method"] == name
