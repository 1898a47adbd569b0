"""What a training stage leaves in its artefact: the model with its sampler, its cost, its last metrics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.io.artefacts import adopt, write_json
from stages.models import Student, save
from stages.training.loop import Outcome


def record(out: Path, outcome: Outcome, model: Student, steps: Sequence[Any] | None = None) -> None:
    """Write out/model, out/cost.json and out/metrics.json; `model` is the outcome's network with what it needs.

    `steps` are its sampler's, see `save`. A rule that stopped it is told with the iteration: stopped_by_<rule>.
    """
    model.net.cpu()
    save(out / "model", model, steps)
    parameters = sum(p.numel() for p in outcome.student.parameters())
    cost = outcome.cost
    write_json(
        out / "cost.json",
        {
            **cost.totals,
            "iterations": outcome.iterations,
            "parameters": parameters,
            "networks": cost.networks,
            "heads": cost.heads,
        },
    )
    ended = {f"stopped_by_{outcome.stopped}": outcome.iterations} if outcome.stopped else {}
    write_json(out / "metrics.json", {**outcome.metrics, **ended})


def gather(part: Path, out: Path) -> Mapping[str, float]:
    """Take a finished unit's files into `out`; returns its metrics, none if it trained nothing."""
    adopt(part, out)
    file = out / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
