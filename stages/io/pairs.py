"""Pairs of noise and sample as an artefact: shards of them, their prompts, and an index that says how to read them.

Noise is a function of (seed, stream, index), so shards may leave it out: the index then names the stream, and readers
make it again, bitwise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from stages.core.rng import normal_at
from stages.io import shards
from stages.io.artefacts import write_json

INDEX = "pairs.json"
DTYPES: MappingProxyType[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
)


@dataclass(frozen=True)
class Origin:
    """Where noise comes from that is not stored: `normal_at(seed, stream, first, ...)`."""

    seed: int
    stream: str


@dataclass(frozen=True)
class Layout:
    """How pairs are stored."""

    dtype: str
    """One of DTYPES. Readers get float32 whatever it is."""
    noise: Origin | None
    """None where the shards hold the noise."""

    def write(
        self, file: Path, *, noise: Tensor, x0: Tensor, prompt_index: Tensor, states: Tensor | None = None
    ) -> None:
        """A shard of N pairs [N, C, H, W], prompts int64 [N], and the states on the way [N, K, C, H, W]."""
        real = {"x0": x0} | ({} if self.noise else {"noise": noise}) | ({} if states is None else {"states": states})
        kept = {name: tensor.to(DTYPES[self.dtype]) for name, tensor in real.items()}
        shards.write(file, kept | {"prompt_index": prompt_index})

    def write_index(self, out: Path, rows: Sequence[int]) -> None:
        """Say in artefact `out` how its shards of `rows` pairs each are read."""
        write_json(out / INDEX, asdict(self) | {"rows": list(rows)})


class Pairs:
    """The pairs of an artefact, a shard at a time."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.rows: list[int] = index["rows"]
        self.prompts = shards.prompts(folder)
        self.layout = Layout(index["dtype"], Origin(**index["noise"]) if index["noise"] else None)
        self._shards = shards.folder(folder)
        if len(self._shards) != len(self.rows):
            raise ValueError(f"{folder}: {len(self._shards)} shards where {INDEX} names {len(self.rows)}")

    def read(self, number: int) -> Mapping[str, Tensor]:
        """Shard `number`: noise and x0 float32 [N, C, H, W], and prompt_index int64 [N], which counts in `prompts`."""
        origin = self.layout.noise
        found = self._shards[number].read(["x0", "prompt_index"] + ([] if origin else ["noise"]))
        x0 = found["x0"].float()
        if origin:
            first = sum(self.rows[:number])
            noise = normal_at(origin.seed, origin.stream, first, len(x0), tuple(x0.shape[1:]))
        else:
            noise = found["noise"].float()
        return {"noise": noise, "x0": x0, "prompt_index": found["prompt_index"]}

    def first_prompts(self, count: int) -> list[str]:
        """The prompts of the first `count` pairs, or of all if there are fewer."""
        index: list[int] = []
        for shard in self._shards:
            if len(index) >= count:
                break
            index += shard.read(["prompt_index"])["prompt_index"].tolist()
        return [self.prompts[i] for i in index[:count]]
