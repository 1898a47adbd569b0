"""What a training stage leaves in its artefact: the model with its sampler, its cost, its last metrics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.io.artefacts import adopt, write_json
from stages.models import Student, save
from stages.training.loop import Outcome


def record(out: Path, outcome: Outcome, model: Student, iterations: int, steps: Sequence[Any] | None = None) -> None:
    """Write out/model, out/cost.json and out/metrics.json; `model` is the outcome's network with what it needs.

    `steps` are its sampler's, see `save`.
    """
    model.net.cpu()
    save(out / "model", model, steps)
    parameters = sum(p.numel() for p in outcome.student.parameters())
    cost = outcome.cost
    write_json(
        out / "cost.json",
        {
            **cost.totals,
            "iterations": iterations,
            "parameters": parameters,
            "networks": cost.networks,
            "heads": cost.heads,
        },
    )
    write_json(out / "metrics.json", dict(outcome.metrics))


def gather(part: Path, out: Path) -> Mapping[str, float]:
    """Take a finished unit's files into `out`; returns its metrics, none if it trained nothing."""
    adopt(part, out)
    file = out / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
