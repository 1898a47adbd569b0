"""Adapters (LoRA) beside a network's frozen weights: injected by peft, in the form that diffusers loads.

They are float32 whatever the network they are added to is held in: AdamW's small updates are lost in bfloat16.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from stages.core.messages import listed
from stages.core.rng import seeded
from stages.models.experts import parts

NAME = "default"
"""Of the one adapter that a network has. It is in no file."""


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name is an adapter's."""
    return ".lora_A." in name or ".lora_B." in name


def inject(body: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Give `body` fresh adapters, which change nothing yet; ValueError names a target that matches no module."""
    from peft import LoraConfig, inject_adapter_in_model

    with seeded(seed):
        for part in parts(body, "").values():
            check(part, targets)
            told = LoraConfig(
                r=rank,
                lora_alpha=alpha,  # type: ignore[arg-type]
                target_modules=_exact(part, targets),
                init_lora_weights=True,
            )
            inject_adapter_in_model(told, part, NAME)
    for name, parameter in body.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()
    body.requires_grad_(False)


def _exact(body: nn.Module, targets: Sequence[str]) -> list[str]:
    """Targets for peft, which stumbles over a name that some layers and some containers of layers have."""
    found = set[str]()
    for target in targets:
        called = [(name, module) for name, module in body.named_modules() if _is_called(name, target)]
        layers = [name for name, module in called if isinstance(module, _LAYERS)]
        found |= {target} if len(layers) == len(called) else set(layers)
    return sorted(found)


_LAYERS = nn.Linear | nn.Conv2d


def _is_called(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def check(body: nn.Module, targets: Sequence[str]) -> None:
    """ValueError names a target that is no linear or convolutional layer of `body`."""
    fit = [name for name, module in body.named_modules() if isinstance(module, _LAYERS)]
    for target in targets:
        if not any(_is_called(name, target) for name in fit):
            ends = sorted({".".join(part for part in name.split(".")[-2:] if not part.isdigit()) for name in fit})
            raise ValueError(f"targets: no layer of the network is called {target}; there are {listed(ends)}")


def layers(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers that have an adapter, by name."""
    return ((name, module) for name, module in net.named_modules() if hasattr(module, "lora_A"))


def rank_of(net: nn.Module) -> int | None:
    """None where there are no adapters."""
    return next((module.r[NAME] for _, module in layers(net)), None)


def rescale(net: nn.Module, alpha: float) -> None:
    """Give the adapters another alpha, and weights with which they do what they did."""
    for _, layer in layers(net):
        scaling = alpha / layer.r[NAME]
        layer.lora_B[NAME].weight.data.mul_(layer.scaling[NAME] / scaling)
        layer.scaling[NAME], layer.lora_alpha[NAME] = scaling, alpha
    for part in parts(net, "").values():
        _config(part).lora_alpha = alpha


def _config(net: Any) -> Any:
    """peft's words, which `inject` left at the network itself."""
    return net.peft_config[NAME]


def exported(body: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Adapters as peft and diffusers name them, alpha being the rank, and peft's words on them; `body` stays as it is.

    Some loaders read no alpha: where it is the rank, they are right not to.
    """
    from peft import get_peft_model_state_dict

    own = [*body.named_parameters(), *body.named_buffers()]
    twin = copy.deepcopy(body, {id(tensor): tensor for name, tensor in own if not is_adapter(name)})
    rank = rank_of(twin)
    assert rank is not None
    rescale(twin, rank)
    told = {**_config(twin).to_dict(), "target_modules": sorted(_config(twin).target_modules)}
    return get_peft_model_state_dict(twin, adapter_name=NAME), told


def merged(body: nn.Module) -> nn.Module:
    """A copy of `body` whose weights are those with the adapters, in float32's precision, and that has none."""
    made = copy.deepcopy(body)
    for name, layer in list(layers(made)):
        layer.merge(adapter_names=[NAME])
        parent, _, last = name.rpartition(".")
        setattr(made.get_submodule(parent), last, layer.get_base_layer())
    return made
