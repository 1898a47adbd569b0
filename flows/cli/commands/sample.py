"""`fewstep sample <student> --prompt ...`: pictures in this process, as the student wants to be sampled."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.cli.paths import Given, given, shown

INDICES = ("model_index.json", "fewstep.json")
"""Of a model's folder: a whole pipeline, or one that names the checkpoint it was made of."""
DATASET, VERIFIER = Path("data/dataset"), Path("data/verifier")
"""What a reward may read: the facts of a prompt that the data set knows, and what judges."""
BATCH, FRAMES_A_SECOND = 16, 8
MAX_NFE, MAX_PICTURES, MAX_PROMPTS = 1000, 64, 64
"""Of one call: what an hour of the largest model's time may be, no mistyped number's."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, what, how many."""
    parser.add_argument("student", type=given, help="teacher, distill@tdm1, an artefact's folder, or a model's folder")
    parser.add_argument(
        "--prompt", action="append", required=True, help=f"may be given more than once, {MAX_PROMPTS} times at most"
    )
    parser.add_argument(
        "--negative",
        help="a prompt to lead away from: by guidance, in the empty one's place; without it, by a model that reads one "
        "itself, or by the field nasa",
    )
    parser.add_argument(
        "--nfe",
        type=int,
        help=f"network calls with even Euler steps, instead of the student's own sampler (1 to {MAX_NFE})",
    )
    parser.add_argument(
        "--sampler",
        help="another one, as parameters state it, in braces: {rule: {name: heun}, schedule: {...}, guidance: 1.0}",
    )
    parser.add_argument(
        "--steering",
        help="search with a reward, as parameters state it, in braces: {name: best_of_n, particles: 4, reward: {...}}",
    )
    parser.add_argument(
        "--told",
        type=given,
        help="a coarse picture, for a model that restores; its pixels become squares",
    )
    parser.add_argument("--begin", choices=("noise", "picture"), help="where that begins (noise)")
    parser.add_argument("--n", type=int, default=1, help=f"pictures a prompt (1; {MAX_PICTURES} at most)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=given, default="sample.png", help="the picture's file (sample.png)")


def main(parsed: argparse.Namespace) -> int:
    """Write one picture: a row a prompt."""
    _check(parsed)
    folder = find(parsed.student)

    import torch

    from flows.project import parameters, storage
    from stages.io import places
    from stages.models import load
    from stages.samplers.student import Noise, draw

    storage.settle(parameters.read())
    student = load(places.view(str(folder.parent)) / folder.name, parsed.prompt, negative=parsed.negative)
    spec = _sampler(parsed, student.spec)
    _leads_away(parsed, spec, reads=getattr(student.net, "negative_reader", None) is not None)
    rows = torch.arange(len(parsed.prompt))[:, None].repeat_interleave(parsed.n, 0) + 1
    model, noise = replace(student, spec=spec), Noise(parsed.seed, "sample")
    if parsed.told is not None:
        samples = _restored(parsed, model, rows, noise)
    elif parsed.steering is None:
        negative = None if parsed.negative is None else torch.full_like(rows, len(parsed.prompt) + 1)
        samples = draw(model, rows, noise, batch_size=BATCH, negative=negative)
    else:
        samples = _searched(parsed, model, rows, noise)
    images = student.space.decode(samples)
    what = "pictures" if images.dim() == 4 else "videos, a row of frames each"
    if images.dim() == 5:
        print(f"{_film(images, parsed.n, parsed.out.path)}: to play")
    picture(_strips(images), parsed.n if images.dim() == 4 else 1).save(parsed.out.path)
    print(f"{parsed.out}: {len(rows)} {what}, {spec.num_steps} steps of {spec.called}")
    return 0


def _restored(parsed: argparse.Namespace, model: Any, rows: Any, noise: Any) -> Any:
    """Samples [n, ...], one a row, told the picture."""
    from stages.samplers.restored import restored

    coarse = model.space.encode(opened(parsed.told, "--told", model.space))
    return restored(model, rows, coarse.repeat(len(rows), 1, 1, 1), noise, begin=parsed.begin or "noise")


def _searched(parsed: argparse.Namespace, model: Any, rows: Any, noise: Any) -> Any:
    """Samples [n, ...], one a row, of the steering; says what it cost."""
    import torch

    from stages.core.config import check
    from stages.core.prompts import Prompt
    from stages.io.dataset import Dataset
    from stages.rewards import Given, expect, terms, weighted
    from stages.steering import Asked
    from stages.steering.rewarded import rewards_of
    from stages.steering.run import steered

    steering = check(Asked, {"steering": section(parsed.steering, "--steering")}, "").steering
    stated = rewards_of(steering)
    chosen = terms(stated, "steering.reward") if stated else []
    expect(chosen, None)
    known = {prompt.text: prompt for prompt in Dataset.load(DATASET).prompts} if DATASET.is_dir() else {}
    prompts = [known.get(text, Prompt(text)) for text in parsed.prompt for _ in range(parsed.n)]
    reward = weighted(chosen, Given(VERIFIER, "cpu")) if chosen else None
    found = [*steered(model, rows, prompts, noise, steering=steering, reward=reward, batch_size=BATCH)]
    calls, scored = (
        torch.cat(parts).double().mean().item()
        for parts in zip(*((each.task.calls, each.task.scored) for each in found), strict=True)
    )
    reached = [each.found.reward for each in found if each.found.reward is not None]
    told = f", mean reward {torch.cat(reached).mean().item():.4g}" if chosen and reached else ""
    print(f"{steering.name}: {calls:g} network calls and {scored:g} reward calls a picture{told}")
    return torch.cat([each.found.x0 for each in found])


def section(text: str, option: str) -> Any:
    """What an option in braces states; ValueError where it is not YAML."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{option}: not YAML ({' '.join(str(error).split())})") from None


def _sampler(parsed: argparse.Namespace, own: Any) -> Any:
    from stages.core.config import check
    from stages.core.spec import even
    from stages.samplers.spec import Sampler
    from stages.samplers.student import simplest

    if parsed.nfe:
        rule = simplest(own)
        return even(parsed.nfe, rule=rule.pop("name"), guidance=own.guidance, **rule)
    if parsed.sampler is None:
        return own
    spec = check(Sampler, section(parsed.sampler, "--sampler"), "--sampler").spec
    if spec.num_steps > MAX_NFE:
        raise ValueError(f"--sampler: {spec.num_steps} steps, {MAX_NFE} at most")
    return spec


def _leads_away(parsed: argparse.Namespace, spec: Any, *, reads: bool = False) -> None:
    """ValueError where a negative prompt would say nothing, or where one is missing.

    `reads`: whether the model reads one itself.
    """
    steers = spec.field is not None and spec.field["name"] == "nasa"
    if parsed.negative is not None and spec.guidance == 1 and not (steers or reads):
        raise ValueError(
            "--negative: the sampler has no guidance to lead away from it; state some, or field: {name: nasa, weight: "
            "0.2}, by --sampler"
        )
    if parsed.negative is None and steers:
        raise ValueError("--sampler: field nasa leads away from a negative prompt; name one by --negative")


def _check(parsed: argparse.Namespace) -> None:
    if not 1 <= parsed.n <= MAX_PICTURES:
        raise ValueError(f"--n {parsed.n}: pictures a prompt are 1 to {MAX_PICTURES}")
    if parsed.nfe is not None and not 1 <= parsed.nfe <= MAX_NFE:
        raise ValueError(f"--nfe {parsed.nfe}: network calls are 1 to {MAX_NFE}")
    if parsed.nfe is not None and parsed.sampler is not None:
        raise ValueError("--nfe and --sampler: name one of them")
    if parsed.told is not None and parsed.steering is not None:
        raise ValueError("--told and --steering: name one of them")
    if parsed.negative is not None and not (parsed.told is None and parsed.steering is None):
        raise ValueError("--negative: it goes with neither --told nor --steering")
    if parsed.told is None and parsed.begin is not None:
        raise ValueError("--begin: it is of a picture; name one by --told")
    if len(parsed.prompt) > MAX_PROMPTS:
        raise ValueError(f"--prompt: {len(parsed.prompt)} prompts, {MAX_PROMPTS} at most")
    writable(parsed.out)


def writable(out: Given) -> None:
    """ValueError unless a picture can be written there."""
    if out.path.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise ValueError(f"--out {out}: a picture ends in .png, .jpg or .webp")
    if not out.path.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {shown(out.path.parent)}")


def find(student: Given) -> Path:
    """The model's folder of a stage's name, an arm's name or a path; ValueError lists the models that are there."""
    models = sorted(path.parent for index in INDICES for path in Path("data").glob(f"**/model/{index}"))
    name = student.text
    places = [student.path, student.path / "model", Path("data") / name.replace("@", "/") / "model"]
    places += [Path("data") / stage / name / "model" for stage in ("distill", "rl")]
    for place in places:
        if any((place / index).is_file() for index in INDICES):
            return place
    there = ", ".join(shown(path.parent) for path in models) or "none yet; `fewstep run` makes them"
    raise ValueError(f"{name}: no model here; there are: {there}")


def opened(file: Given, option: str, space: Any) -> Any:
    """[1, C, H, W] in [0, 1]; ValueError where it cannot be read, or the model has none like it."""
    from stages.io.folder import FORMATS, UNREADABLE, decoded, guarded
    from stages.models.latents import Latents

    channels, *sides = space.shape
    if isinstance(space, Latents) and space.at is not None:
        channels, sides = 3, [space.at.options.height, space.at.options.width] if len(sides) == 2 else []
    if len(sides) != 2 or channels not in (1, 3):
        raise ValueError(f"samples of shape {list(space.shape)} are no pictures; take a model of pictures")
    form = FORMATS.get(file.path.suffix.lower())
    if form is None or not file.path.is_file():
        raise ValueError(f"{option} {file}: no file that ends in {', '.join(FORMATS)}")
    try:
        with guarded():
            return decoded(file.path, form, (sides[1], sides[0]), channels, "box")[None]
    except UNREADABLE as error:
        raise ValueError(f"{option} {file}: no image that can be read ({error})") from None


def _strips(images: Any) -> Any:
    """Videos [n, C, T, H, W] as their frames side by side, [n, C, H, T W]; pictures as they are."""
    return images if images.dim() == 4 else images.transpose(2, 3).flatten(3)


def _film(videos: Any, columns: int, out: Path) -> Path:
    """The videos beside each other, as a file to play: `out` with another ending."""
    file = out.with_suffix(".gif")
    first, *rest = [picture(frames, columns) for frames in videos.unbind(2)]
    first.save(file, save_all=True, append_images=rest, duration=round(1000 / FRAMES_A_SECOND), loop=0)
    return file


def picture(samples: Any, columns: int) -> Any:
    """Images [n, C, H, W] in [0, 1] as one picture, `columns` a row, each at least 64 pixels wide."""
    import torch
    from PIL import Image

    if samples.shape[1] not in (1, 3) or samples.shape[2] < 4:
        raise ValueError(f"samples of shape {list(samples.shape[1:])} are no pictures; this model's data are points")
    scale = max(1, 64 // samples.shape[-1])
    large = samples.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    rows = [torch.cat(list(row), dim=2) for row in large.split(columns)]
    grid = (torch.cat(rows, dim=1) * 255).round().byte().expand(3, -1, -1)
    return Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy())
