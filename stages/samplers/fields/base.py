"""What fields' knobs and fields share."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from stages.samplers.field import Counts, Field
from stages.samplers.grid import Grid, combine
from stages.samplers.prompted import Prompted


class Knobs:
    """What holds of a field's knobs unless they say otherwise."""

    fixed: ClassVar[bool] = True
    """Whether the calls that it makes are known without the network and the samples."""
    tokens: ClassVar[bool] = False
    """Whether it is for rules that unmask tokens, and for no other."""

    def fits(self, num_steps: int, guidance: float) -> None:
        """ValueError where a sampler of `num_steps` under `guidance` has no use for it."""


class Everywhere(Field):
    """A field that answers alike on any grid: it looks at times and states, and remembers nothing."""

    def __init__(self, knobs: Knobs, network: Prompted, grid: Grid, x: Tensor, counts: Counts | None = None) -> None:
        super().__init__(network, grid, x, counts)
        self._knobs, self._network = knobs, network

    def on(self, grid: Grid, x: Tensor) -> Field:
        """The same on another grid; its calls are counted here."""
        return type(self)(self._knobs, self._network, grid, x, self.counts)


class OfSamples(Field):
    """A field that decides by the sample whether the network is called; it calls it for those that need it alone."""

    def __init__(self, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._network = network

    def answered(self, x: Tensor, i: int, called: Tensor, instead: Tensor) -> Tensor:
        """The network's velocity at node i for the samples `called`, bool [B], and what is `instead` for the others."""
        rows = called.nonzero()[:, 0]
        if len(rows) == len(x):
            return self._call(x, self._labels[i])
        if not len(rows):
            return instead
        self._count(len(rows), self._passes)
        return instead.index_copy(0, rows, self._network.take(rows)(x[rows], self._labels[i][rows]))


def with_noise(grid: Grid, i: int, v: Tensor, change: Tensor, share: float) -> Tensor:
    """The velocity v at node i, for noise predictions that are changed by share x `change`; the state stays.

    At alpha = 0 the state is the noise, and v as it was.
    """
    weight = grid.noise[i][1]
    return v if weight == 0 else combine((1.0, share / weight), v, change)


class OfBlocks(Field):
    """A field that goes through the network block by block, and saves a part of the work of some."""

    def __init__(self, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._network = network

    def worked(self, samples: int, opened: Any, work: int) -> None:
        """Count a call of which so much was done, in multiply-adds of a row's blocks."""
        self._count(samples, len(opened.tokens) // samples * opened.share(work))


def by_sample(rows: Tensor, count: int) -> Tensor:
    """[P B, ...], the samples with the prompts before those without, as [B, P, ...]."""
    return rows.unflatten(0, (-1, count)).transpose(0, 1)


def by_row(samples: Tensor) -> Tensor:
    """What `by_sample` made of rows, as rows."""
    return samples.transpose(0, 1).flatten(0, 1)


def lowest(x: Tensor) -> Tensor:
    """The part of x [..., H, W] with frequencies within a fifth of its smaller side."""
    height, width = x.shape[-2:]
    rows, columns = (torch.fft.fftfreq(size, 1 / size, device=x.device) for size in (height, width))
    inside = rows[:, None].square() + columns.square() <= (min(height, width) // 5) ** 2
    return torch.fft.ifft2(torch.fft.fft2(x) * inside).real


def weighted(x: Tensor, low: float, high: float) -> Tensor:
    """x [..., H, W] with those frequencies times `low`, and the others times `high`."""
    return x if low == high == 1 else low * (part := lowest(x)) + high * (x - part)
