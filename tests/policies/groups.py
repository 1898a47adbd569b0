"""Groups of samples of tiny networks, for policies that learn from noised final samples."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.types import World
from stages.models.space import Points
from tests.training.tiny import TinyNet, of_roles

PIXELS = Points((1, 4, 4), torch.float64)


def mean_pixel(samples: Tensor, _cond: Tensor) -> Tensor:
    return samples.flatten(1).mean(dim=1)


def batch(groups: int = 3, size: int = 8) -> dict[str, Tensor]:
    group = torch.arange(groups).repeat_interleave(size)
    return {"cond": group[:, None] % 6, "group": group}


def tiny(module: ModuleType, cfg: Any, **others: nn.Module) -> World:
    """A network a role, no two the same but for `others`."""
    nets = of_roles(module.roles(cfg))
    return World(nets=nets | others, space=PIXELS, reward=mean_pixel)


def level(module: ModuleType, cfg: Any, **others: nn.Module) -> World:
    """Every role the same network, though a copy of it: where training begins."""
    return tiny(module, cfg, **{role: TinyNet(0) for role in module.roles(cfg)} | others)


def prepared(module: ModuleType, world: World, cfg: Any, groups: int = 3, size: int = 8) -> dict[str, Tensor]:
    return dict(module.prepare(world, batch(groups, size), stream(0, "prepare"), cfg))


def gradient(value: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(net.parameters()))])


def slope_of(module: ModuleType, world: World, given: dict[str, Tensor], cfg: Any) -> Tensor:
    """The loss's gradient by all of the student's weights."""
    return gradient(module.loss(world, given, stream(0, "loss"), cfg)[0], world.nets["student"])
