"""Randomness is an argument: every draw is a function of (seed, stream name, step or sample index).

No draw depends on how many workers, shards or batches made the ones before it, so a result is bitwise the same
with one worker or many, and a resumed run needs no saved generator.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator, Tensor


def _key(*parts: object) -> int:
    """64 bits that depend on every part; hashlib rather than hash(), which differs between processes."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def stream(seed: int, name: str, step: int = 0, device: str | torch.device = "cpu") -> Generator:
    """The generator of stream `name` at `step`."""
    return Generator(device).manual_seed(_key(seed, name, step) >> 1)


def fork(rng: Generator, *names: str) -> list[Generator]:
    """One independent stream a name; drawing more from one never shifts another."""
    base = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    return [Generator(rng.device).manual_seed(_key(base, name) >> 1) for name in names]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's own stream of the processor starts at `seed` within, and is as it was afterwards: layers draw from it.

    `torch.manual_seed` would seed the accelerators as well, for good; and where none was used yet, keep the call's
    stack for later, which takes longer than a small layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def uniform_at(seed: int, name: str, start: int, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [count, *shape], of the samples start .. start + count - 1.

    A sample's numbers depend on (seed, name, its global index) alone: a counter-based generator (Philox) is advanced to
    the sample.
    """
    size = int(np.prod(shape, dtype=np.int64))
    padded = -(-size // 4) * 4  # one Philox counter yields four 64-bit words
    bits = np.random.Philox(key=_key(seed, name))
    bits.advance(start * (padded // 4))
    return np.random.Generator(bits).random((count, padded))[:, :size].reshape(count, *shape)


def normal_at(seed: int, name: str, start: int, count: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [count, *shape], float32, of the samples with global indices start .. start + count - 1.

    A sample's noise depends on (seed, name, its index) alone: uniforms become normals through the inverse cumulative
    distribution, which always consumes one each.
    """
    # random() lies in [0, 1) and its quantile at 0 is infinite.
    uniform = np.maximum(uniform_at(seed, name, start, count, shape), 2.0**-54)
    return torch.special.ndtri(torch.from_numpy(uniform)).float()


def normal_like(x: Tensor, rng: Generator) -> Tensor:
    """Standard normal noise of x's shape, type and device."""
    return torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)


def uniform(n: int, rng: Generator, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """n uniform numbers in [low, high), of the type and on the device of `like`."""
    return low + (high - low) * torch.rand(n, generator=rng, dtype=like.dtype, device=like.device)


def heavier(normals: Tensor) -> Tensor:
    """[B]: by what Gaussian noise is multiplied to be a multivariate Student's t of D degrees; of normals [B, D]."""
    return normals.square().mean(dim=1).rsqrt()
