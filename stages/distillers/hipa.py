"""HiPA: one step, by a regression to what many steps make, in which fine detail counts by itself.

Source: Zhang and Hooi 2023 (arXiv:2311.18158), of which no code is published; by notes on the paper.
One network learns, on pairs of noise and the teacher's sample of it; for a checkpoint by adapters alone, as its authors
have it (`tune: {kind: lora}`).

    1/2 [|x - y|^2 + detail_weight (|H x - H y|^2 + |E x - E y|^2)],  x = f(noise, 1), y the teacher's sample
H takes away all waves below `cutoff`, by Fourier transform; E is how steep a picture is at a place, its edges.

UNVERIFIED: that is all that the notes tell. The detail's weight, where H cuts and how softly, what finds the edges,
whether y may be real, and the optimiser are ours. Here H cuts at once, by the wave's length in both directions
together, and E is the size of the differences to the next place in each direction, which wrap around.
Differs: samples of the model's space are compared (theirs: pictures that a VAE has decoded); squared error (theirs: a
perceptual distance).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.path import data_from_velocity
from stages.core.ranges import NonNegative, Rate
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import at
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "pairs"
FLAT = 1e-6
"""Added to an edge's square, whose root has no slope at 0."""


@config
class Config:
    """Knobs of HiPA."""

    method: Literal["hipa"]
    detail_weight: NonNegative
    """lambda: of what is compared of detail, beside the whole; 0 is `kd`."""
    cutoff: Annotated[float, Field(gt=0, lt=0.75, allow_inf_nan=False)]
    """Waves a pixel, below which H takes them away; a row of pixels, light and dark in turn, has .5."""
    student_lr: Rate
    """AdamW's step size."""


def high_pass(x: Tensor, cutoff: float) -> Tensor:
    """x [B, ..., H, W] without waves of fewer than `cutoff` a pixel, by the length of their two numbers together."""
    height, width = x.shape[-2:]
    rows, columns = (torch.fft.fftfreq(n, dtype=x.dtype, device=x.device) for n in (height, width))
    kept = (rows[:, None].square() + columns.square()).sqrt() >= cutoff
    return torch.fft.ifft2(torch.fft.fft2(x) * kept).real


def edges(x: Tensor) -> Tensor:
    """[B, ..., H, W]: the size of the differences to the next row and column."""
    down, right = (x.roll(-1, dim) - x for dim in (-2, -1))
    return (down.square() + right.square() + FLAT).sqrt()


def loss(world: World, batch: Batch, _rng: Generator, cfg: Config) -> Loss:
    """Half the mean squared errors of the one-step sample: as it is, and of its detail and edges by their weight."""
    noise, y = batch["noise"], batch["x0"]
    t = at(1.0, noise)
    x = data_from_velocity(noise, world.nets["student"](noise, t, batch["cond"]), t)
    whole = (x - y).square().mean()
    if not cfg.detail_weight:
        return 0.5 * whole, {"error": whole.detach()}
    fine = high_pass(x - y, cfg.cutoff).square().mean()
    steep = (edges(x) - edges(y)).square().mean()
    found = {"error": whole.detach(), "fine_error": fine.detach(), "edge_error": steep.detach()}
    return 0.5 * (whole + cfg.detail_weight * (fine + steep)), found


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """The pairs decide all."""
    return (Phase(name="student", trains=("student",), loss=loss, draws=False),)


def sampler(_cfg: Config) -> SamplerSpec:
    """One step from noise; no guidance."""
    return even(1)
