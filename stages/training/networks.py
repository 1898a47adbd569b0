"""The networks of a training by role, and the one way in which losses call them.

A loss holds these and no network itself. So each call is counted where it happens, whatever asks for it, and each
answer is float32 before a loss sees it: no method can forget either.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.core.precision import widened
from stages.core.prompts import Prompt
from stages.core.types import Cond, Reward, Scored, Space, World
from stages.models.discriminator import Discriminator
from stages.training.cost import SCORED, Meter
from stages.training.method import Follower, Frozen, Role, Trained

Precision = Literal["float32", "bfloat16"]


class RoleNetwork(nn.Module):
    """`net` as losses call it: counted as `role`'s, computed in a `computing()`, answered in float32 or wider."""

    def __init__(
        self,
        net: nn.Module,
        role: str,
        meter: Meter,
        computing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.net = net
        self._role, self._meter, self._computing = role, meter, computing

    @property
    def feature_dim(self) -> int:
        """F of `features`."""
        return self.net.feature_dim  # type: ignore[return-value]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's answer: a velocity, or a head's logits."""
        return self._answer(self.net, inputs, "")

    def features(self, *inputs: Tensor) -> Tensor:
        """[B, T, F], from a part of the network."""
        return self._answer(self.net.features, inputs, "_part")  # type: ignore[arg-type]

    def _answer(self, call: Callable[..., Tensor], inputs: tuple[Tensor, ...], part: str) -> Tensor:
        samples = len(inputs[0])
        self._meter.add(f"{self._role}/forward{part}", samples)
        with self._computing():
            answer = call(*inputs)
        if answer.requires_grad:
            backward = f"{self._role}/backward{part}"
            answer.register_hook(lambda _gradient: self._meter.add(backward, samples))
        return widened(answer)


def world_of(
    nets: Mapping[str, nn.Module],
    space: Space,
    judge: tuple[Reward, Sequence[Prompt]] | None,
    meter: Meter,
    *,
    precision: Precision,
    device: str,
) -> World:
    """What losses may call, each call counted in `meter`, which knows the roles of `nets`.

    `judge` is a reward with the prompts that the rows of the text table stand for.
    """
    half = partial(torch.autocast, torch.device(device).type, torch.bfloat16)
    computing = half if precision == "bfloat16" else nullcontext
    roles = {role: RoleNetwork(net, role, meter, computing) for role, net in nets.items()}
    return World(nets=roles, space=space, reward=judge and _scored(*judge, space, meter))


def _scored(reward: Reward, prompts: Sequence[Prompt], space: Space, meter: Meter) -> Scored:
    def scored(samples: Tensor, cond: Cond) -> Tensor:
        meter.add(SCORED, len(samples))
        found = reward(space.decode(samples), [prompts[row] for row in cond[:, 0].tolist()])
        # Decoding cuts what is out of range: an infinite pixel would pass for a white one.
        finite = samples.flatten(1).isfinite().all(dim=1)
        return torch.where(finite, widened(found), torch.nan)

    return scored


def heads_of(roles: Mapping[str, Role]) -> list[str]:
    """The roles whose network judges features and sees no sample."""
    return [name for name, role in roles.items() if isinstance(role, Trained) and role.start == "head"]


def build(
    roles: Mapping[str, Role], init: nn.Module, teacher: nn.Module, *, seed: int, device: str
) -> dict[str, nn.Module]:
    """A network a role; followers begin as what they follow.

    A teacher in closed form has nothing to train: `init` stands in for a copy of it.
    """
    made: dict[str, nn.Module] = {}
    for name, role in roles.items():
        match role:
            case Trained(start="head"):
                made[name] = frozen_copy(Discriminator(teacher.feature_dim, seed), device)  # type: ignore[arg-type]
            case Trained(start="teacher") if any(True for _ in teacher.parameters()):
                made[name] = frozen_copy(teacher, device)
            case Trained() | Frozen():
                made[name] = frozen_copy(init, device)
    for name, role in roles.items():
        if isinstance(role, Follower):
            made[name] = frozen_copy(made[role.of], device)
    return made


def frozen_copy(net: nn.Module, device: str) -> nn.Module:
    """A copy in evaluation mode that asks for no gradient."""
    return copy.deepcopy(net).to(device).eval().requires_grad_(False)
