"""The one way in which losses call networks.

A loss holds these and no network itself. So each call is counted where it happens, whatever asks for it, and each
answer is float32 before a loss sees it: no method can forget either.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from stages.core.advantage import summed
from stages.core.precision import wide_type, widened
from stages.core.prompts import Prompt
from stages.core.types import Cond, Guiding, Reward, Scored, Space, World
from stages.training.cost import SCORED, Meter

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

    @property
    def rescale(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What becomes of its velocity under guidance, see `stages/core/guidance.py`."""
        return getattr(self.net, "rescale", None)

    @property
    def away(self) -> Guiding | None:
        """How its velocity is guided, where it is in its own way."""
        return getattr(self.net, "away", None)

    def forward(self, *inputs: Tensor, **more: Any) -> Any:
        """The network's answer: a velocity or a head's logits, or several where the network has several heads.

        `more` are inputs that some networks have: a second time, a scale. Inside `torch.func.jvp` the answer carries
        its derivative, which costs as much again and is counted as a second call.
        """
        return self._answer(self.net, inputs, more, "")

    def fields(self, *inputs: Tensor) -> Tensor:
        """[B, H, ...], all that a network with a policy answers."""
        return self._answer(self.net.fields, inputs, {}, "")  # type: ignore[arg-type]

    def beside(self, *inputs: Tensor) -> Tensor:
        """[B, ...] of the network's companion: a part of a call."""
        return self._answer(self.net.beside, inputs, {}, "_part")  # type: ignore[arg-type]

    def features(self, *inputs: Tensor, **more: Any) -> Tensor:
        """[B, T, F], from a part of the network."""
        return self._answer(self.net.features, inputs, more, "_part")  # type: ignore[arg-type]

    def _answer(self, call: Callable[..., Any], inputs: tuple[Tensor, ...], more: Mapping[str, Any], part: str) -> Any:
        samples, came_back = len(inputs[0]) * (1 if part else getattr(self.net, "rows", 1)), False
        if any(unpack_dual(each).tangent is not None for each in inputs):
            samples *= 2
        self._meter.add(f"{self._role}/forward{part}", samples)
        with self._computing():
            answer = call(*inputs, **more)

        def count(_gradient: Tensor) -> None:
            nonlocal came_back
            if not came_back:  # through another head of the same call
                self._meter.add(f"{self._role}/backward{part}", samples)
            came_back = True

        answers = answer if isinstance(answer, tuple) else (answer,)
        for each in answers:
            if each.requires_grad:
                each.register_hook(count)
        wide = tuple(widened(each) for each in answers)
        return wide if isinstance(answer, tuple) else wide[0]


def world_of(
    nets: Mapping[str, nn.Module],
    space: Space,
    judge: tuple[Reward, Sequence[Prompt], tuple[float, ...]] | None,
    meter: Meter,
    *,
    precision: Precision,
    device: str,
) -> World:
    """What losses may call, each call counted in `meter`, which knows the roles of `nets`.

    `judge` is a reward, which may keep several apart, with the prompts that the rows of the text table stand for, and
    the weight of each reward.
    """
    half = partial(torch.autocast, torch.device(device).type, torch.bfloat16)
    computing = half if precision == "bfloat16" else nullcontext
    roles = {role: RoleNetwork(net, role, meter, computing) for role, net in nets.items()}
    if judge is None:
        return World(nets=roles, space=space)
    reward, prompts, weights = judge
    parts = _scored(reward, prompts, len(weights), space, meter)
    return World(
        nets=roles,
        space=space,
        reward=lambda samples, cond: summed(parts(samples, cond), weights),
        parts=parts,
        weights=weights,
    )


def _scored(reward: Reward, prompts: Sequence[Prompt], count: int, space: Space, meter: Meter) -> Scored:
    """[B, count]."""

    def scored(samples: Tensor, cond: Cond) -> Tensor:
        # No reward sees such a sample: decoding cuts what is out of range, and infinity would pass for white.
        finite = samples.flatten(1).isfinite().all(dim=1)
        meter.add(SCORED, len(samples))
        found = torch.full((len(samples), count), torch.nan, dtype=wide_type(samples.dtype), device=samples.device)
        if finite.any():
            asked = [prompts[row] for row in cond[finite, 0].tolist()]
            found[finite] = reward(space.decode(samples[finite]), asked).to(found).reshape(-1, count)
        return found

    return scored
