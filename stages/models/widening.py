"""A last layer that is made wider, so that a network of one velocity answers the fields of a policy."""

from typing import Any

import torch
from torch import Tensor, nn

from stages.models.policy import Policy


def widen(last: tuple[Any, int, int], policy: Policy, seed: int) -> int:
    """Have the layer answer copies of what it does, nearly, and the policy's other fields; returns their channels.

    `last` is `TwoTimes.last_layer`; the copies begin apart as the policy has it, from `seed`.
    """
    layer, before, together = last

    def rows(tensor: Tensor) -> Tensor:
        return tensor.detach().unflatten(0, (before, -1, together))

    noise = torch.randn(policy.copies * rows(layer.bias).shape[1], generator=torch.Generator().manual_seed(seed))
    for name in ("weight", "bias"):
        own = rows(getattr(layer, name))
        copies = torch.cat([own] * policy.copies, dim=1)
        others = own.new_zeros(before, len(policy.others), *own.shape[2:])
        if name == "bias":
            copies = copies + policy.apart * noise.to(own)[:, None]
            others = others + torch.tensor(policy.others).to(own)[:, None]
        setattr(layer, name, nn.Parameter(torch.cat([copies, others], dim=1).flatten(0, 2)))
    count = len(layer.bias)
    setattr(layer, "out_channels" if hasattr(layer, "out_channels") else "out_features", count)
    return count // before
