"""A small evaluation: pictures, a verifier, a teacher, a student and three RL arms, none of them trained."""

from pathlib import Path
from typing import Any

import torch

from stages.core.prompts import Prompt
from stages.core.rng import seeded
from stages.core.spec import even
from stages.io import artefacts
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.models import Student, TextTable, save
from stages.models.names import Classifier, ClassifierConfig
from stages.models.network import seeded_build, seeded_teacher
from stages.models.space import Pixels
from stages.models.text import Clip
from stages.models.transformer import TransformerConfig
from stages.models.verifier import DigitVerifier, save_verifier
from stages.training.cost import TOTALS

SECTION = {
    "num_samples": 10, "batch_size": 4, "teacher_nfe": [1, 2], "guidance_nfe": 2, "guidance_scales": [1.0, 2.0],
    "distill_nfe": {}, "rl_nfe": 3, "rl_steps": [], "fd_repeats": 2, "neighbours": 2,
    "straightness_samples": 2, "straightness_steps": 4,
    "grid_prompts": 3, "metrics": {}, "rewards": {}, "steered": {},
}  # fmt: skip


def right(**attributes: float) -> dict[str, Any]:
    """An arm's rewards: what the verifier finds right."""
    return {"right": {"kind": "verifier", "weight": 1.0, "attributes": attributes}}


RL = {
    "dgpo": {"init": "data/teacher", "sampler": None, "rollout_steps": 6, "rewards": right(digit=0.25, slant=0.75)},
    "again": {"init": "data/rl/dgpo", "sampler": None, "rollout_steps": 3, "rewards": right(all=1.0)},
    "tuned": {"init": "data/distill/fast", "sampler": None, "rollout_steps": 1, "rewards": right(all=2.0)},
}
ATTRIBUTES = {"digit": ["0", "1", "2"], "weight": ["thin", "medium", "bold"], "slant": ["left", "upright", "right"]}
SILENT = lambda _step, _metrics: None  # noqa: E731


def make_inputs(root: Path) -> None:
    """Pictures whose targets are what an untrained verifier measures on them, so that the truth is known."""
    with seeded(0):
        sizes = ClassifierConfig(channels=4, feature_dim=6)
        verifier = DigitVerifier(Classifier(sizes, (1, 8, 8), 3), ATTRIBUTES, [20.0, 40.0], [-0.05, 0.05]).eval()
        images = torch.rand(60, 1, 8, 8) * torch.linspace(0.1, 1, 60)[:, None, None, None]
    (root / "verifier").mkdir(parents=True)
    save_verifier(root / "verifier", verifier)
    targets = verifier.measure(images)
    known = sorted({tuple(row) for row in targets.tolist()})
    assert len(known) >= 6, "the test needs prompts to hold out"
    facts = [{name: ATTRIBUTES[name][i] for name, i in zip(ATTRIBUTES, row, strict=True)} for row in known]
    places = torch.tensor([known.index(tuple(row)) for row in targets.tolist()])
    (root / "dataset").mkdir()
    data = Dataset(
        train_images=images[:30], train_prompts=places[:30], test_images=images[30:], test_prompts=places[30:],
        prompts=[Prompt(" ".join(each.values()), each) for each in facts],
        splits=["seen" if place % 3 else "heldout" for place in range(len(known))],
        space="pixels", facts={"kind": "digits"},
    )  # fmt: skip
    data.save(root / "dataset")
    sizes = TransformerConfig(kind="transformer", width=16, num_layers=1, num_heads=2, patch_size=4)
    texts = [prompt.text for prompt in data.table]
    encoder = seeded_teacher(0, sizes, (1, 8, 8), texts, Clip(kind="clip", num_layers=1)).text.frozen()
    text = TextTable(texts, encoder.encode(texts))
    (root / "encode").mkdir()
    text.save(root / "encode")
    specs = {"teacher": even(2), "distill/fast": even(1), "rl/dgpo": even(8), "rl/again": even(8), "rl/tuned": even(1)}
    for number, (name, spec) in enumerate(specs.items()):
        net = seeded_build(number, sizes, (1, 8, 8), text)
        save(root / name / "model", Student(net, spec, Pixels((1, 8, 8)), encoder))
        totals = dict.fromkeys(TOTALS, 0) | {"network_evaluations": 1000 + number}
        artefacts.write_json(root / name / "cost.json", {**totals, "iterations": 5, "parameters": 1})
    (root / "reflow").mkdir()
    artefacts.write_json(root / "reflow" / "stats.json", {"straightness_teacher": 0.125})
    for folder in ("verifier", "dataset", "encode", "reflow", *specs):
        artefacts.write_json(
            root / folder / artefacts.MANIFEST, {"schema": 1, "files": artefacts.inventory(root / folder)}
        )


def job_on(root: Path) -> Job:
    """The evaluation of what `make_inputs(root)` made."""
    names = ("dataset", "verifier", "teacher", "encode", "reflow", "distill/fast", *(f"rl/{arm}" for arm in RL))
    return Job(
        stage="evaluate", arm=None, seed=3, section=SECTION, inputs={name: str(root / name) for name in names},
        context={"distill": {"fast": {"method": "kd"}}, "rl": RL},
    )  # fmt: skip
