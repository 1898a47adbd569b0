"""The state of an interrupted training on disk: safetensors and JSON, replaced in one rename, never pickled."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.core import tensors
from stages.training.cost import Meter

STATE = "state.safetensors"


class Training(Protocol):
    """What of a training goes to disk and comes back."""

    meter: Meter
    counted: Tensor
    """Calls so far, in the order of the meter's names."""
    iteration: int
    updates: dict[str, int]

    @property
    def nets(self) -> Mapping[str, nn.Module]: ...  # noqa: D102
    @property
    def average(self) -> nn.Module: ...  # noqa: D102
    @property
    def optimisers(self) -> Mapping[str, Optimizer]: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102


def save(trainer: Training, folder: Path) -> None:
    """Write all that the next iteration depends on. Generators are functions of the iteration: none is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    counted = dict(zip(trainer.meter.names, trainer.counted.tolist(), strict=True))
    facts = {"iteration": trainer.iteration, "counted": counted, "updates": trainer.updates}
    temporary = folder / f".{STATE}.{os.getpid()}"
    tensors.save(temporary, _tensors(trainer), {"facts": json.dumps(facts)})
    temporary.replace(folder / STATE)


def restore(trainer: Training, folder: Path) -> bool:
    """Bring `trainer` to where `save` left it; False, and nothing done, if there is no state in `folder`."""
    file = folder / STATE
    if not file.is_file():
        return False
    with safe_open(file, framework="pt", device=trainer.device) as state:
        facts = json.loads(state.metadata()["facts"])
        kept = {name: state.get_tensor(name) for name in state.keys()}
    for name, net in _networks(trainer).items():
        net.load_state_dict({key.removeprefix(f"{name}:"): v for key, v in kept.items() if key.startswith(f"{name}:")})
    for name, optimiser in trainer.optimisers.items():
        content = optimiser.state_dict()
        content["state"] = _nested({k: v for k, v in kept.items() if k.startswith(f"{name}!")})
        optimiser.load_state_dict(content)
    trainer.iteration, trainer.updates = facts["iteration"], facts["updates"]
    trainer.counted = torch.tensor([facts["counted"][name] for name in trainer.meter.names], dtype=torch.float64)
    return True


def _networks(trainer: Training) -> dict[str, nn.Module]:
    return {**trainer.nets, "average": trainer.average}


def _tensors(trainer: Training) -> dict[str, Tensor]:
    found = {f"{name}:{key}": v for name, net in _networks(trainer).items() for key, v in net.state_dict().items()}
    for name, optimiser in trainer.optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            found |= {f"{name}!{index}!{key}": value for key, value in state.items()}
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def _nested(flat: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    nested: dict[int, dict[str, Any]] = {}
    for address, value in flat.items():
        _, index, key = address.split("!")
        nested.setdefault(int(index), {})[key] = value
    return nested
