"""A verifier's word on samples, as named numbers: do they show what was asked, and are they like the real thing?"""

from dataclasses import asdict

import torch
from torch import Tensor

from stages.metrics.energy import energy_distance
from stages.metrics.frechet import frechet_distance
from stages.metrics.neighbours import neighbours
from stages.metrics.score import score
from stages.models.mixture import GaussianMixture
from stages.models.verifier import Verifier


def correctness(verifier: Verifier, images: Tensor, targets: Tensor, split: str) -> dict[str, float]:
    """score_<split> with the ends of its interval, and accuracy_<split>_<attribute>.

    From images [N, ...] and the attributes int64 [N, A] that their prompts ask for.
    """
    found = score(verifier.measure(images), targets, list(verifier.attributes))
    return {
        f"score_{split}": found.overall.value,
        f"score_{split}_low": found.overall.low,
        f"score_{split}_high": found.overall.high,
        **{f"accuracy_{split}_{name}": share.value for name, share in found.accuracy.items()},
    }


def likeness(verifier: Verifier, images: Tensor, real: Tensor, *, k: int) -> dict[str, float]:
    """frechet_distance, precision, recall, density and coverage of images against real ones, in verifier features."""
    made, truth = verifier.features(images), verifier.features(real)
    return {"frechet_distance": frechet_distance(made, truth), **asdict(neighbours(truth, made, k=k))}


def against_mixture(truth: GaussianMixture, images: Tensor, component: Tensor, real: Tensor) -> dict[str, float]:
    """Errors of images [N, d, 1, 1], asked for `component` [N], in data units, where the true law is known.

    energy_distance to exact samples `real`; mean_error and std_error are the mean absolute errors of a component's
    mean (over components and elements) and standard deviation (over components), from samples that asked for it.
    """
    means, stds = [], []
    for k in component.unique().tolist():
        points = images[component == k].flatten(1).double()
        if len(points) > 1:
            means.append((points.mean(0) - truth.means[k]).abs().mean())
            stds.append((points.var(0).mean().sqrt() - truth.stds[k]).abs())
    if not means:
        raise ValueError(f"a mixture's moments: no component was asked for twice in {len(images)} samples; draw more")
    return {
        "energy_distance": energy_distance(images, real),
        "mean_error": torch.stack(means).mean().item(),
        "std_error": torch.stack(stds).mean().item(),
    }
