"""Presets for real checkpoints: each runs to its end on a tiny checkpoint of its family, its sizes alone changed.

In a plain process: tests/flows/pipeline/test_checkpoint.py has that a pipeline makes the same of a checkpoint.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flows.pipeline import planning, validation
from stages.models.checkpoint import Options
from tests.composed import params_of
from tests.models.families import tiny
from tests.plain import run_all
from tests.test_presets import shortened
from tests.tiny_pretrained import save_clip, save_detector

PRESETS = {
    "sd15_lcm": "sd15",
    "sdxl_dmd2": "sdxl",
    "pixart_tdm": "pixart_alpha",
    "sd35_dgpo": "sd3",
    "sd35_flow_grpo": "sd3",
    "flux_tdm": "flux_dev",
    "qwen_tdm_then_dgpo": "qwen_image",
    "wan_dmd2": "wan",
}
IMAGES = {"sd15_lcm", "sdxl_dmd2"}
ROWS = [
    {"prompt": f'a {color} sign that says "{word}"', "tag": "colors", "include": [{"class": word, "count": 1}]}
    for color in ("red", "blue")
    for word in ("cat", "dog", "cow")
]
SIZES = {
    "precision": "float32",
    "rank": 2,
    "slices": 1,
    "warmup": 0,
    "iterations": 1,
    "batch_size": 2,
    "nfe": 2,
    "num_intervals": 4,
    "rollout_steps": 2,
    "steps_per_update": 1,
    "num_trajectories": 4,
    "shard_size": 4,
    "image_shard_size": 4,
    "prompts_per_iteration": 2,
    "group_size": 2,
    "num_draws": 1,
    "num_samples": 2,
    "teacher_nfe": [1, 2],
    "rl_nfe": 2,
    "guidance_nfe": 2,
    "straightness_samples": 2,
    "straightness_steps": 2,
    "grid_prompts": 1,
    "ot_batch": 2,
    "num_steps": 2,
    "steps": 2,
    "fraction": 0.34,
}


def tar_of(file: Path, side: int) -> Path:
    """Images with their prompts, in a shard of webdataset's kind."""
    with tarfile.open(file, "w") as shard:
        for number, row in enumerate(ROWS):
            picture = io.BytesIO()
            Image.new("RGB", (side, side), (40 * number, 90, 120)).save(picture, "PNG")
            for ending, content in (("png", picture.getvalue()), ("json", json.dumps(row).encode())):
                entry = tarfile.TarInfo(f"{number:04d}.{ending}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    return file


def cut(preset: str, root: Path) -> list[str]:
    """The words that run the preset on a tiny checkpoint, in `root`."""
    options = tiny.options(PRESETS[preset])
    if preset in IMAGES:
        data = tar_of(root / "data.tar", options.height)
    else:
        data = root / "data.jsonl"
        data.write_text("\n".join(map(json.dumps, ROWS)))
    clip, checkpoint = save_clip(root / "clip"), tiny.saved(PRESETS[preset], root / "checkpoint")
    overrides = [f"experiment={preset}", f"dataset.path={data}", f"teacher.source={checkpoint}"]
    if preset == "sd35_dgpo":
        right, detector = "rl.arms.dgpo.rewards.right", save_detector(root / "detector", ["cat", "dog", "cow"])
        overrides += [f"{right}.source={detector}", f"{right}.colors.source={clip}"]
    elif preset == "qwen_tdm_then_dgpo":
        overrides += [f"rl.arms.dgpo.rewards.taste.{where}={clip}" for where in ("source", "processor.source")]
    elif preset != "sd35_flow_grpo":
        overrides += [f"evaluate.rewards.clip.source={clip}"]
    whole = params_of(*overrides)
    small = shortened(whole, SIZES)
    del small["trainings"]  # which `compose` makes of the others
    small["compute"]["workers"] = dict.fromkeys(whole["compute"]["workers"], 1)
    small["teacher"] |= {field.name: getattr(options, field.name) for field in fields(Options)}
    small["dataset"] |= {"height": options.height, "width": options.width}
    return [*overrides, *changes(whole, small)]


def changes(whole: Mapping[str, Any], small: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Overrides that make one of the other."""
    for key, value in small.items():
        before = whole.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            yield from changes(before, value, f"{where}{key}.")
        elif value != before:
            yield f"++{where}{key}={json.dumps(value)}"


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_on_a_tiny_checkpoint_of_its_family(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = params_of(*cut(preset, tmp_path))
    monkeypatch.chdir(tmp_path)
    assert validation.faults(content) == []
    run_all(content, tmp_path)
    told = {row.node: row.needs for row in planning.planned(content) if row.node.arm}
    assert told
    for node, needs in told.items():
        made = Path(node.folder)
        assert needs
        assert needs.forward == json.loads((made / "cost.json").read_text())["network_evaluations"]
        assert (made / "model" / "README.md").is_file()
    assert Path("data/evaluate/report.html").stat().st_size > 10_000
