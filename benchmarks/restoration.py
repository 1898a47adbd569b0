"""Pictures of half the size restored, by each residual process and by a student: the table of docs/restoration.md.

    fewstep run experiment=digits teacher=restoration teacher.budget.iterations=600 \
        +distiller@distill.arms.oftsr=oftsr 'distill.arms.oftsr.told={factor: 2, dropout: 0.1}' --until distill@oftsr
    python benchmarks/restoration.py

Of the test images, each told by the means of its squares of two pixels a side and by its prompt. PSNR is the mean over
images, in decibels, of intensities in [0, 1]; the energy distance (x 1000) is that to the images themselves, whose own
is 0; what is told is missed by the root mean square distance between the told picture and that of the restored one.
The one noise is chosen as `reflow.samplers` would, on pictures of the training data, by params/fit/boundary_condition.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import ask_for, line, put  # noqa: E402
from stages.core.coarse import coarse  # noqa: E402
from stages.core.config import check  # noqa: E402
from stages.core.precision import Wide  # noqa: E402
from stages.core.rng import stream  # noqa: E402
from stages.core.spec import even  # noqa: E402
from stages.io.dataset import Dataset  # noqa: E402
from stages.metrics.energy import energy_distance  # noqa: E402
from stages.models import Student, load  # noqa: E402
from stages.samplers.boundary_condition import BoundaryCondition  # noqa: E402
from stages.samplers.fits import fit_of  # noqa: E402
from stages.samplers.fits.model import Fitting  # noqa: E402
from stages.samplers.restored import Begin, restored  # noqa: E402
from stages.samplers.spec import Sampler  # noqa: E402
from stages.samplers.student import Noise  # noqa: E402

PRESET = (
    "experiment=digits teacher=restoration teacher.budget.iterations=600 +distiller@distill.arms.oftsr=oftsr "
    "'distill.arms.oftsr.told={factor: 2, dropout: 0.1}' --until distill@oftsr"
)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the way that the student of one call is asked about."""
PAGE, FACTOR, CALLS = Path("docs/restoration.md"), 2, (1, 2, 4, 8)
PROCESSES: dict[str, dict[str, Any]] = {
    "ResShift": {"name": "resshift", "kappa": 2.0, "power": 0.3},
    "IR-SDE": {"name": "mean_reverting", "left": 0.005, "spread": 0.5},
    "SGMSE+": {"name": "ou_ve", "pull": 1.5, "least": 0.05, "most": 0.5},
    "RDDM": {"name": "rddm", "spread": 0.1},
    "Resfusion": {"name": "resfusion"},
}
KNOBS: dict[str, Any] = yaml.safe_load((ROOT / "params/fit/boundary_condition.yaml").read_text(encoding="utf-8"))
NONE: tuple[str, dict[str, Any]] = ("the flow from a noise of 0", {"noise": (0.0,)})
AT_NOISE = ("RDDM", "Resfusion")
"""Processes that begin where nothing of the residual is left."""


def ways() -> Iterator[tuple[str, dict[str, Any], Begin, int]]:
    """What a row is called, its schedule without steps, where it begins, and by how many its steps exceed its calls."""
    yield "the flow, even times", {"name": "uniform"}, "noise", 0
    yield "the same from the picture", {"name": "uniform"}, "picture", 1
    for name, process in PROCESSES.items():
        schedule = {"name": "residual", "process": process}
        yield (name, schedule, "noise", 0) if name in AT_NOISE else (name, schedule, "picture", 1)


def from_one_noise(model: Student, data: Dataset, calls: int) -> BoundaryCondition:
    """Euler's rule in so many calls from the best of the preset's candidates."""
    schedule = {"name": "uniform", "steps": calls}
    fit = fit_of({**KNOBS, "then": {"name": "euler"}, "schedule": schedule, "guidance": 1.0, "factor": FACTOR})
    rows = torch.randperm(len(data.train_images), generator=stream(0, "restoration/pictures"))[: fit.num_samples]
    x0, cond = model.space.encode(data.train_images[rows]), data.rows(data.train_prompts[rows])
    rule = fit.fitted(Fitting(Wide(model.net), cond, x0, x0, lambda word: stream(0, f"restoration/{word}"))).rule
    assert isinstance(rule, BoundaryCondition)
    return rule


def main() -> None:
    """Restore, and write the page."""
    ask_for(["dataset", "teacher", "distill/oftsr"], PRESET)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    data = Dataset.load(Path("data/dataset"))
    texts = [prompt.text for prompt in data.prompts]
    model = load(Path("data/teacher/model"), texts)
    clean, cond = data.test_images, data.rows(data.test_prompts)
    told = coarse(model.space.encode(clean), FACTOR)

    def numbers(found: Tensor) -> list[str]:
        images = model.space.decode(found)
        psnr = -10 * (images - clean).square().flatten(1).mean(dim=1).log10().mean()
        missed = (coarse(images, FACTOR) - model.space.decode(told)).square().mean().sqrt()
        distance = energy_distance(images.flatten(1).double(), clean.flatten(1).double())
        return [f"{psnr:.2f}", f"{1000 * distance:.3g}", f"{missed:.3f}"]

    head = ["", "calls", "PSNR", "energy distance x 1000", "what is told is missed by"]
    lines = [line(head), line(["---"] * len(head))]
    small = F.avg_pool2d(told, FACTOR)
    smooth = F.interpolate(small, tuple(told.shape[2:]), mode="bilinear", align_corners=False)
    lines += [line([name, "0", *numbers(of)]) for name, of in (("as it is told", told), ("bilinear", smooth))]
    for name, schedule, begin, more in ways():
        for calls in CALLS:
            stated = {"rule": {"name": "euler"}, "schedule": {**schedule, "steps": calls + more}, "guidance": 1.0}
            spec = check(Sampler, stated, "sampler").spec
            found = restored(replace(model, spec=spec), cond, told, Noise(0, "restoration"), begin=begin)
            lines.append(line([name, str(calls), *numbers(found)]))
    chosen = {calls: from_one_noise(model, data, calls) for calls in CALLS}
    for name, other in ((f"the flow from the best of {KNOBS['candidates']} noises", {}), NONE):
        for calls, rule in chosen.items():
            spec = replace(even(calls), rule=asdict(replace(rule, **other)))
            found = restored(replace(model, spec=spec), cond, told, Noise(0, "restoration"))
            lines.append(line([name, str(calls), *numbers(found)]))
    student = load(Path("data/distill/oftsr/model"), texts)
    for share in SHARES:
        found = restored(replace(student, spec=even(1, rule="oftsr", share=share)), cond, told, Noise(0, "restoration"))
        lines.append(line([f"the student, {share:g} of the way", "1", *numbers(found)]))
    put(ROOT / PAGE, "restoration.py", "\n".join(lines))
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
