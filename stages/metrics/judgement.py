"""A verifier's word on samples, as named numbers: do they show what was asked, and are they like the real thing?"""

from collections.abc import Sequence
from dataclasses import asdict

from torch import Tensor

from stages.core.frechet import frechet_distance
from stages.core.prompts import Prompt
from stages.metrics.energy import energy_distance
from stages.metrics.neighbours import neighbours
from stages.metrics.score import score
from stages.metrics.transport import wasserstein2
from stages.models.mixture import GaussianMixture
from stages.models.verifier import Verifier

TASK = "task"
"""The fact that says which of a benchmark's tasks a prompt belongs to, where it has any."""


def correctness(verifier: Verifier, images: Tensor, prompts: Sequence[Prompt], split: str) -> dict[str, float]:
    """score_<split> with the ends of its interval, accuracy_<split>_<attribute>, and score_<split>_of_<task>.

    From images [N, ...] in [0, 1] and the N prompts that ask for them. Nothing of a verifier that judges nothing.
    """
    if not verifier.attributes:
        return {}
    right = verifier.judge(images, prompts)
    found = score(right, verifier.attributes)
    by_task: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        if TASK in prompt.facts:
            by_task.setdefault(prompt.facts[TASK], []).append(index)
    return {
        f"score_{split}": found.overall.value,
        f"score_{split}_low": found.overall.low,
        f"score_{split}_high": found.overall.high,
        **{f"accuracy_{split}_{name}": share.value for name, share in found.accuracy.items()},
        **{f"score_{split}_of_{task}": right[rows].all(1).double().mean().item() for task, rows in by_task.items()},
    }


def likeness(verifier: Verifier, images: Tensor, real: Tensor, *, k: int) -> dict[str, float]:
    """frechet_distance, precision, recall, density and coverage of images against real ones, in verifier features."""
    made, truth = verifier.features(images), verifier.features(real)
    return {"frechet_distance": frechet_distance(made, truth), **asdict(neighbours(truth, made, k=k))}


def against_mixture(
    truth: GaussianMixture, made: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Errors where the true law is known; `made` and `real` are (images [N, d, 1, 1], component [N]).

    Means over components: energy_distance and wasserstein2, in data units, between samples that asked for a component
    and exact ones of it; mean_error and std_error the absolute errors of its mean (mean over elements) and standard
    deviation; weight_error that of the share of all samples that lie in it; nll_error that of E[-log p], in nats.
    Within a component samples are independent; over the whole mixture they are not, since both sides share the prompts.
    """
    lies_in = truth.nearest(made[0])
    errors: dict[str, list[float]] = {}
    for k in made[1].unique().tolist():
        images, exact = made[0][made[1] == k], real[0][real[1] == k]
        points, std = images.flatten(1).double(), truth.stds[k]
        if len(points) < 2:
            raise ValueError(f"a mixture's moments: component {k} has {len(points)} sample; draw more")
        surplus = ((points - truth.means[k]).square().sum(1) / std.square()).mean() - points.shape[1]
        found = {
            "energy_distance": energy_distance(images, exact),
            "wasserstein2": wasserstein2(images, exact),
            "mean_error": (points.mean(0) - truth.means[k]).abs().mean().item(),
            "std_error": (points.var(0).mean().sqrt() - std).abs().item(),
            "weight_error": ((lies_in == k).double().mean() - (made[1] == k).double().mean()).abs().item(),
            "nll_error": surplus.abs().item() / 2,
        }
        for name, value in found.items():
            errors.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in errors.items()}
