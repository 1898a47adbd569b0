"""What is seen of a policy while it trains: the same samples, of the network as it is by then, and what they cost."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import rl
from stages.core.types import Run
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.models import TextTable, load
from stages.training.gallery import GAP, Gallery, Looking, sheet
from tests.cells.rigs import make_inputs
from tests.composed import params_of

PARAMS = Path(__file__).parents[2] / "params"
WANTED = {"every": 2, "prompts": 4, "samples": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return root


def trained(root: Path, out: Path, gallery: dict[str, int] | None, iterations: int = 5) -> Any:
    """What an arm told, and showed."""
    section = params_of("experiment=smoke")["rl"]["arms"]["dgpo"]
    section.pop("replicates")
    section |= {
        "gallery": gallery,
        "rewards": {"small": {"kind": "jpeg", "weight": -1.0, "quality": 90}},
        "group_size": 3,
        "prompts_per_iteration": 2,
    }
    section["budget"] |= {"iterations": iterations, "ema": 0.0, "warmup": 0}
    section["student_lr"] = 0.03
    names = {"init": "teacher", "dataset": "dataset", "encode": "encode", "verifier": "verifier"}
    inputs = {name: str(root / folder) for name, folder in names.items()}
    job = Job(stage="rl", arm="dgpo", seed=0, section=section, inputs=inputs)
    told: list[Any] = []
    shown: list[Any] = []
    out.mkdir()
    run = Run(
        out=out, resume=out / "resume", sink=lambda *line: told.append(line), show=lambda *line: shown.append(line)
    )
    rl.work(rl.configure(job), job, {"id": "all"}, run)
    return told, shown, json.loads((out / "cost.json").read_text())


def test_the_same_samples_are_shown_now_and_then_and_change_nothing(root: Path, tmp_path: Path) -> None:
    told, shown, cost = trained(root, tmp_path / "with", WANTED)
    plain, none, less = trained(root, tmp_path / "without", None)
    assert [step for step, _, _ in shown] == [0, 2, 4, 5]
    assert {name for _, name, _ in shown} == {"gallery"}
    assert none == []
    prompts = [name for name in told[0][1] if name.startswith("prompt/")]
    assert len(prompts) == 4
    assert all(set(prompts) <= set(numbers) for step, numbers in told if step in (0, 2, 4, 5))
    last, before = told[-1][1], plain[-1][1]
    assert {name: value for name, value in last.items() if name not in prompts} == before, "it trains as it would"
    assert all(-2 < last[name] < 0 for name in prompts), "the weighted reward"
    pictures = [np.asarray(picture) for _, _, picture in shown]
    assert not np.array_equal(pictures[0], pictures[-1]), "the network has changed"
    looks, samples, calls = 4, 4 * 3, 2
    assert cost["network_evaluations"] - less["network_evaluations"] == looks * samples * calls
    assert cost["samples_scored"] - less["samples_scored"] == looks * samples


@pytest.mark.parametrize(("space", "pictures"), [("pixels", 1), ("points", 0)])
def test_points_have_numbers_and_no_picture(root: Path, space: Any, pictures: int) -> None:
    shown: list[Any] = []
    model, data = load(root / "teacher/model", TextTable.load(root / "encode")), Dataset.load(root / "dataset")
    looking = Looking(
        Gallery(every=1, prompts=2, samples=3), model, replace(data, space=space),
        lambda images, _prompts: images.flatten(1).mean(dim=1), 0, 4, lambda *line: shown.append(line),
    )  # fmt: skip
    assert len(looking(model.net, 7)) == 2
    assert len(shown) == pictures


def test_half_of_the_prompts_are_held_out_where_there_are_enough(root: Path) -> None:
    data = Dataset.load(root / "dataset")
    seen, heldout = data.places("seen"), data.places("heldout")

    def places(count: int) -> list[int]:
        wanted = Gallery(every=1, prompts=count, samples=1)
        return Looking(wanted, None, data, None, 0, 8, None).places  # type: ignore[arg-type]

    four = places(4)
    assert set(four[:2]) <= set(seen)
    assert set(four[2:]) <= set(heldout)
    many = places(64)
    assert sorted(many) == sorted(set(many)), "each once"
    assert len(many) == min(64, len(seen) + len(heldout))


def test_a_sheet_has_a_column_for_each_prompt() -> None:
    shades = torch.linspace(0, 1, 6).reshape(6, 1, 1, 1)
    laid = np.asarray(sheet(shades.expand(6, 3, 8, 8), each=2))
    side = 96 + 2 * GAP
    assert laid.shape == (2 * side, 3 * side, 3)
    middle = laid[side // 2 :: side, side // 2 :: side, 0]
    assert middle.tolist() == [[0, 102, 204], [51, 153, 255]], "samples of a prompt stand below each other"
    assert laid[0, 0, 0] == 255, "white between them"
    film = shades[:, :, None].expand(6, 1, 3, 8, 8).clone()
    film[:, :, 1] = 0.5
    assert (np.asarray(sheet(film, each=2))[side // 2 :: side, side // 2 :: side] == 128).all(), "the middle frame"
    assert np.asarray(sheet(torch.zeros(2, 3, 1000, 500), each=1)).shape == (91 + 2 * GAP, 2 * (46 + 2 * GAP), 3)
