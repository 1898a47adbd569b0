"""Networks whose numbers are of few bits: a copy that rounds them as such a network would, in the type that it has.

A number u becomes round(u / scale) x scale, clipped to 2^(bits - 1) - 1 of these on either side of zero. Weights have a
scale for each output, activations one for a whole layer or, where none is given, for each token by its largest number.
What is rounded are the linear layers and convolutions inside of blocks: not those that read the time, which shift and
scale norms, and not the first and last ones.
"""

import copy
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

_CANDIDATES = 200


def most(bits: int) -> int:
    """The largest whole number of so many bits, with a sign."""
    return 2 ** (bits - 1) - 1


def rounded(x: Tensor, scale: Tensor | float, bits: int) -> Tensor:
    """`x` in whole multiples of `scale`."""
    return (x / scale).round().clamp(-most(bits), most(bits)) * scale


def best_scale(x: Tensor, bits: int) -> Tensor:
    """[N, 1]: of each row of x [N, M] the scale at which its mean squared error is least, of many up to its largest."""
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / most(bits)
    best, least = largest, (rounded(x, largest, bits) - x).square().mean(dim=1, keepdim=True)
    for part in torch.linspace(1, 0, _CANDIDATES + 1)[1:-1].tolist():
        scale = part * largest
        error = (rounded(x, scale, bits) - x).square().mean(dim=1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def layers(net: Any) -> Mapping[str, nn.Linear | nn.Conv2d]:
    """By name, those that are rounded; ValueError where there are none."""
    named = net.named_modules() if isinstance(net, nn.Module) else ()
    found = {name: layer for name, layer in named if isinstance(layer, nn.Linear | nn.Conv2d) and _is_rounded(name)}
    if not found:
        raise ValueError(f"a {type(net).__name__} has no linear layers or convolutions in blocks to round")
    return found


def _is_rounded(name: str) -> bool:
    parts = name.split(".")
    is_inside = any(part.endswith("blocks") or part == "mid_block" for part in parts)
    reads_time = any("norm" in part or "time" in part for part in parts)
    return is_inside and not reads_time


@torch.no_grad()
def quantised(net: Any, weight_bits: int | None, activation_bits: int | None, scales: Sequence[float]) -> Any:
    """A copy of `net`, with weights and the activations before each of `layers` of so many bits; None is as they are.

    `scales` has one a layer, in their order, or none at all. ValueError where it has another number.
    """
    made = copy.deepcopy(net)
    found = layers(made)
    if scales and len(scales) != len(found):
        raise ValueError(f"scales has {len(scales)} numbers, and the network {len(found)} layers to round; fit again")
    for place, layer in enumerate(found.values()):
        weight: Any = layer.weight
        if weight_bits is not None:
            rows = weight.flatten(1)
            weight.copy_(rounded(rows, best_scale(rows, weight_bits), weight_bits).view_as(weight))
        if activation_bits is not None:
            layer.register_forward_pre_hook(_rounds(activation_bits, scales[place] if scales else None))
    return made


def has_torchao() -> bool:
    """Whether numbers can be stored as they are rounded. Not imported: where it is, diffusers says so at length."""
    return find_spec("torchao") is not None


@torch.no_grad()
def stored(net: Any, *, activations: bool) -> Any:
    """A copy of `net` whose linear `layers` hold their weights as int8, by torchao; with `activations`, these too.

    An output's scale is its largest number / 127.5, and a token's alike. ValueError where there are none such.
    """
    made = copy.deepcopy(net)
    linear = {name for name, layer in layers(made).items() if isinstance(layer, nn.Linear)}
    if not linear:
        raise ValueError(f"a {type(net).__name__} has no linear layers in blocks, and torchao stores no others")
    torchao: Any = import_module("torchao.quantization")
    kind = torchao.Int8DynamicActivationInt8WeightConfig if activations else torchao.Int8WeightOnlyConfig
    torchao.quantize_(made, kind(set_inductor_config=False), filter_fn=lambda _layer, name: name in linear)
    return made


def _rounds(bits: int, scale: float | None) -> Any:
    def before(layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = given
        if scale is not None:
            return (rounded(x, scale, bits),)
        channels = 1 if isinstance(layer, nn.Conv2d) else -1
        largest = x.abs().amax(dim=channels, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        return (rounded(x, largest / most(bits), bits),)

    return before
