"""A trajectory in one call: a network answers for several times at once, and its answers know of each other.

DSNO, Zheng et al. 2023 (arXiv:2211.13449). What is asked goes through the network in as many rows as there are times,
each told which of them it is for. Behind each block the features of a sample's rows are convolved along the times: a
product in their Fourier series, of which the first `modes` are kept, h + leaky ReLU(series). It all begins as nothing,
so that each row begins with the answer that the network alone gives.

Differs: a learnt vector joins the embedding of the time and says which row it is (the authors' code: the embedding of
the row's own time, at which no network was ever given noise); weights begin as zeros (the code: as numbers between 0
and 1 / channels^2).

This file is copied into saved models as it is, hence it imports torch and diffusers alone.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class Temporal(ModelMixin, ConfigMixin):
    """Called as `inner` is; answers [B, count * C, H, W], the channels of each time behind each other."""

    @register_to_config
    def __init__(
        self, kind: str, each: dict[str, Any], count: int, modes: int, time_embedding: str, width: int
    ) -> None:
        """A network of diffusers' class `kind` with the configuration `each`, asked for `count` times.

        `time_embedding` is the layer of it that embeds the time, as `width` numbers.
        """
        super().__init__()
        self._embedding = time_embedding
        self.inner = getattr(diffusers, kind).from_config(each)
        self.convolutions = nn.ModuleList(Convolution(_width(layer), modes) for layer in _layers(self.inner))
        self.which = nn.Parameter(torch.zeros(count, width))

    @classmethod
    def of(cls, body: Any, time_embedding: tuple[nn.Module, int], count: int, modes: int) -> "Temporal":
        """`body` itself, asked for `count` times; with the layer that embeds the time, and its width."""
        each = {name: value for name, value in body.config.items() if not name.startswith("_")}
        embedding, width = time_embedding
        name = next(name for name, layer in body.named_modules() if layer is embedding)
        with torch.random.fork_rng(devices=[]):
            made = cls(type(body).__name__, each, count, modes, name, width)
        made.inner = body
        return made.to(next(body.parameters())).train(body.training)

    def forward(self, *inputs: torch.Tensor, **more: Any) -> tuple[torch.Tensor]:
        """The answers alone, whatever `return_dict` says."""
        count = len(self.which)

        def rows(value: Any) -> Any:
            return value.repeat_interleave(count, dim=0) if torch.is_tensor(value) and value.dim() else value

        with self._joined():
            asked = {name: rows(value) for name, value in more.items()}
            answer = self.inner(*(rows(each) for each in inputs), **asked)[0]
        return (torch.cat(answer.unflatten(0, (-1, count)).unbind(1), dim=1),)

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """While it lasts, rows are told which they are, and know of each other."""
        count = len(self.which)
        with ExitStack() as hooks:

            def hook(layer: nn.Module, then: Callable[[torch.Tensor], torch.Tensor]) -> None:
                hooks.callback(layer.register_forward_hook(lambda _layer, _inputs, answer: _on(answer, then)).remove)

            embedding = self.inner.get_submodule(self._embedding)
            hook(embedding, lambda answer: answer + self.which.repeat(len(answer) // count, 1))
            for layer, convolution in zip(_layers(self.inner), self.convolutions, strict=True):
                hook(layer, lambda answer, own=convolution: own(answer, count))
            yield


class Convolution(nn.Module):
    """Along the times of features that have `width` channels."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(modes, width, width, 2))

    def forward(self, features: torch.Tensor, count: int) -> torch.Tensor:
        """Features [B * count, W, ...], or [B * count, N, W], with what the other times of a sample add."""
        channel = 1 if features.dim() == 4 else 2
        rows = features.movedim(channel, -1).unflatten(0, (-1, count)).float()
        series = torch.fft.rfft(rows, dim=1)[:, : len(self.weight)]
        kept = torch.view_as_complex(self.weight[: series.shape[1]].float())
        series = torch.einsum("bm...c,mcd->bm...d", series, kept)
        added = nn.functional.leaky_relu(torch.fft.irfft(series, n=count, dim=1))
        return features + added.flatten(0, 1).movedim(-1, channel).to(features)


def _layers(body: nn.Module) -> list[nn.Module]:
    """Those that features are convolved behind: a UNet's residual ones, a transformer's blocks."""
    # Workers who hold parts of a layer make its class one of their own.
    kinds = ([kind.__name__ for kind in type(layer).__mro__] for layer in body.modules())
    known = {"ResnetBlock2D", "JointTransformerBlock"}
    return [layer for layer, names in zip(body.modules(), kinds, strict=True) if known.intersection(names)]


def _width(layer: Any) -> int:
    """Channels of what it answers."""
    return layer.out_channels if hasattr(layer, "out_channels") else layer.norm1.linear.in_features


def _on(answer: Any, then: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same of a layer's answer, or of the last of several, which are the picture's features."""
    return (*answer[:-1], then(answer[-1])) if isinstance(answer, tuple) else then(answer)
