"""Turning a gap between two denoisers into a loss, and the robust distances that distillation uses.

On the flow path D = x - t v, so the gap is D_fake - D_real = t (v_real - v_fake).
"""

import torch
from torch import Tensor, nn

SMALLEST_DEVIATION = 1e-6
"""Keeps the normaliser from dividing by zero where a student already sits on the teacher's estimate."""


def per_sample(x: Tensor) -> Tensor:
    """Mean over everything but the batch: [B, ...] -> [B]."""
    return x.flatten(1).mean(dim=1)


def injected(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose derivative by `x` is `gradient` / x.numel(); its value is half the mean of gradient^2.

    The pseudo-target form, mean of (x - sg[x - g])^2 / 2: it keeps the value meaningful in logs.
    """
    return 0.5 * (x - (x - gradient).detach()).square().mean()


def deviation(sample: Tensor, real: Tensor) -> Tensor:
    """mean |sample - D_real| over each sample, [B, 1, ...], without gradient: the scale that DMD divides by.

    Yin et al. 2024 (arXiv:2311.18828), eq. 8.
    """
    size = per_sample((sample - real).detach().abs()).clamp_min(SMALLEST_DEVIATION)
    return size.reshape(-1, *(1,) * (sample.dim() - 1))


def pseudo_huber(gap: Tensor, c: float) -> Tensor:
    """sqrt(gap^2 + c^2) - c of each element; for large c it tends to gap^2 / (2 c), for small c to |gap|."""
    return (gap.square() + c**2).sqrt() - c


def rms_huber(gap: Tensor, c: float) -> Tensor:
    """sqrt(mean gap^2 + c^2) - c of each sample, [B]; c is in the data's units.

    The consistency literature's sqrt(|gap|^2 + C^2) - C with C = c sqrt(d), divided by sqrt(d).
    """
    return (per_sample(gap.square()) + c**2).sqrt() - c


def adaptive(gap: Tensor, power: float, floor: float) -> Tensor:
    """|gap|^2 / (|gap|^2 + floor)^power of each sample [B], the denominator without gradient; |.|^2 sums over elements.

    Geng et al. 2025 (arXiv:2505.13447), section 4.3: power 0 is the squared distance, 1/2 nearly the distance itself.
    """
    size = gap.flatten(1).square().sum(dim=1)
    return size / (size.detach() + floor) ** power


def through_identity(x0hat: Tensor, real: Tensor, gap: Tensor, slope: Tensor, alpha: float) -> Tensor:
    """The mean over elements of d'(gap) [(D_real - x0hat) - alpha gap], `slope` being d' of gap = D_real - D_fake.

    Score implicit matching (arXiv:2410.16794), and score identity distillation (arXiv:2404.04057) before it: for an
    optimal fake and alpha = 1 its gradient by what made x0hat and x_t is that of E d(gap), without the fake's own.
    """
    return (slope * (real - x0hat - alpha * gap)).mean()


def unlearning(module: nn.Module, *inputs: Tensor) -> Tensor:
    """`module(*inputs)` with gradients to the inputs but none to the module's parameters."""
    frozen = {name: value.detach() for name, value in module.named_parameters()}
    return torch.func.functional_call(module, frozen, inputs)
