"""`fewstep sample <student> --prompt ...`: pictures in this process, as the student wants to be sampled."""

import argparse
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, what, how many."""
    parser.add_argument("student", help="teacher, distill@tdm1, an artefact's folder, or a model's folder")
    parser.add_argument("--prompt", action="append", required=True, help="may be given more than once")
    parser.add_argument(
        "--nfe", type=int, help="network calls with even Euler steps, instead of the student's own grid"
    )
    parser.add_argument("--n", type=int, default=1, help="pictures a prompt (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("sample.png"))


def main(parsed: argparse.Namespace) -> int:
    """Write one picture: a row a prompt."""
    if parsed.n < 1:
        raise ValueError(f"--n {parsed.n}: at least one picture a prompt")
    if parsed.nfe is not None and parsed.nfe < 1:
        raise ValueError(f"--nfe {parsed.nfe}: at least one network call")
    if parsed.out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise ValueError(f"--out {parsed.out}: a picture ends in .png, .jpg or .webp")
    folder = find(parsed.student)

    from flows.project import storage
    from stages.core.spec import even
    from stages.io import params, places
    from stages.models import load
    from stages.samplers.student import Noise, draw

    storage.settle(params.read(Path("params.yaml")))
    student = load(places.view(str(folder.parent)) / folder.name)
    spec = even(parsed.nfe, guidance=student.spec.guidance) if parsed.nfe else student.spec
    prompts = [prompt for prompt in parsed.prompt for _ in range(parsed.n)]
    samples = draw(student.net, spec, prompts, Noise(parsed.seed, "sample"))
    _picture(samples, parsed.n).save(parsed.out)
    print(f"{parsed.out}: {len(prompts)} pictures, {len(spec.times) - 1} steps of {spec.rule}")
    return 0


def find(name: str) -> Path:
    """The model's folder of a stage's name, an arm's name or a path; ValueError lists the models that are there."""
    models = sorted(path.parent for path in Path("data").glob("**/model_index.json"))
    places = [Path(name), Path(name) / "model", Path("data") / name.replace("@", "/") / "model"]
    places += [Path("data") / stage / name / "model" for stage in ("distill", "rl")]
    for place in places:
        if (place / "model_index.json").is_file():
            return place
    there = ", ".join(str(path.parent) for path in models) or "none yet; `fewstep run` makes them"
    raise ValueError(f"{name}: no model here; there are: {there}")


def _picture(samples: Any, columns: int) -> Any:
    """Samples [n, C, H, W] in [-1, 1] as one picture, `columns` a row, each at least 64 pixels wide."""
    import torch
    from PIL import Image

    if samples.shape[1] not in (1, 3) or samples.shape[2] < 4:
        raise ValueError(f"samples of shape {list(samples.shape[1:])} are no pictures; this model's data are points")
    scale = max(1, 64 // samples.shape[-1])
    large = samples.clamp(-1, 1).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    rows = [torch.cat(list(row), dim=2) for row in large.split(columns)]
    grid = ((torch.cat(rows, dim=1) + 1) * 127.5).round().byte().expand(3, -1, -1)
    return Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy())
