"""The state of an interrupted training on disk: safetensors and JSON, replaced in one rename, never pickled.

A training stops for as long as its state takes to copy; the copy is written beside it.
"""

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import safe_open
from torch import Tensor
from torch.optim import Optimizer

from stages.core import tensors
from stages.training.cost import Meter
from stages.training.roles import Weights
from stages.training.shards import part, whole
from stages.training.stopping import Watch

STATE = "state.safetensors"
SAVE_EVERY_S = 20.0
SHARE = 0.02
"""Of a training's time, at most, that it may stand still for its state to be copied."""


class Training(Protocol):
    """What of a training goes to disk and comes back."""

    meter: Meter
    counted: Tensor
    """Calls so far, in the order of the meter's names."""
    iteration: int
    updates: dict[str, int]
    watch: Watch | None
    carried: list[dict[str, Tensor]]

    @property
    def weights(self) -> Weights: ...  # noqa: D102
    @property
    def optimisers(self) -> Mapping[str, Optimizer]: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class State:
    """All that the next iteration depends on, copied. Generators are functions of the iteration: none is kept."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, trainer: Training) -> "State":
        """As `trainer` is now, in this machine's memory; where workers hold parts, all of them must call this."""
        counted = dict(zip(trainer.meter.names, trainer.counted.tolist(), strict=True))
        facts = {"iteration": trainer.iteration, "counted": counted, "updates": dict(trainer.updates)}
        if trainer.watch:
            facts["seen"] = {name: list(values) for name, values in trainer.watch.seen.items()}
        return cls({name: whole(tensor).to("cpu", copy=True) for name, tensor in _tensors(trainer).items()}, facts)

    def write(self, folder: Path) -> None:
        """In the place of what was there."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{STATE}.{os.getpid()}"
        tensors.save(temporary, self.tensors, {"facts": json.dumps(self.facts)})
        temporary.replace(folder / STATE)


class Saver:
    """Keeps `folder` a while behind a training: copies its state now and then, and writes the copy in a thread.

    `iteration` is that of the state which the folder holds already, 0 for none. Without `writes` it keeps nothing: what
    it copies is another worker's to write.
    """

    def __init__(self, folder: Path, iteration: int, *, writes: bool = True) -> None:
        self._folder, self._writes, self._pool = folder, writes, ThreadPoolExecutor(1, "checkpoint")
        self._kept = iteration
        """Of the state in `folder`; 0 where there is none."""
        self._writing: Future[None] | None = None
        self._copied, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is time, and the last copy is written."""
        rest = max(SAVE_EVERY_S, self._took / SHARE)
        return time.monotonic() - self._copied > rest and (self._writing is None or self._writing.done())

    def save(self, trainer: Training) -> None:
        """Copy the state, and have it written. Raises what writing the last one raised."""
        if self._writing:
            self._writing.result()
        begin = time.monotonic()
        state = State.of(trainer)
        if self._writes:
            self._writing = self._pool.submit(state.write, self._folder)
        self._copied, self._kept = time.monotonic(), trainer.iteration
        self._took = self._copied - begin

    @property
    def told(self) -> str:
        """Where the last state is that was looked at and found good, in words."""
        if not self._kept:
            return "no state was kept before that"
        return f"the last good state, of iteration {self._kept}, is {self._folder / STATE}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_others: object) -> None:
        """Wait for what is being written; its own error counts where there is no other."""
        self._pool.shutdown()
        if self._writing and error is None:
            self._writing.result()


def restore(trainer: Training, folder: Path) -> bool:
    """Bring `trainer` to where `save` left it; False, and nothing done, if there is no state in `folder`."""
    file = folder / STATE
    if not file.is_file():
        return False
    with safe_open(file, framework="pt", device=trainer.device) as state:
        facts = json.loads(state.metadata()["facts"])
        kept = {name: state.get_tensor(name) for name in state.keys()}
    for name, tensor in trainer.weights.state().items():
        tensor.copy_(part(kept[name], tensor))
    for name, optimiser in trainer.optimisers.items():
        content = optimiser.state_dict()
        moved = trainer.weights.parameters(name)
        content["state"] = {
            index: {
                key: part(value, moved[index]) if value.shape == moved[index].shape else value
                for key, value in states.items()
            }
            for index, states in _nested({k: v for k, v in kept.items() if k.startswith(f"{name}!")}).items()
        }
        optimiser.load_state_dict(content)
    for index, carried in enumerate(trainer.carried):
        prefix = _carried(index)
        carried |= {name.removeprefix(prefix): tensor for name, tensor in kept.items() if name.startswith(prefix)}
    trainer.iteration, trainer.updates = facts["iteration"], facts["updates"]
    if trainer.watch:
        trainer.watch.seen = facts["seen"]
    trainer.counted = torch.tensor([facts["counted"][name] for name in trainer.meter.names], dtype=torch.float64)
    return True


def _tensors(trainer: Training) -> dict[str, Tensor]:
    found = trainer.weights.state()
    for name, optimiser in trainer.optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            found |= {f"{name}!{index}!{key}": value for key, value in state.items()}
    for index, carried in enumerate(trainer.carried):
        found |= {f"{_carried(index)}{name}": tensor for name, tensor in carried.items()}
    return found


def _carried(index: int) -> str:
    """How names begin of what slice `index` carries."""
    return f"carried?{index}?"


def _nested(flat: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    nested: dict[int, dict[str, Any]] = {}
    for address, value in flat.items():
        _, index, key = address.split("!")
        nested.setdefault(int(index), {})[key] = value
    return nested
