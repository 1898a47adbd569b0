"""`fewstep edit <model> --image ... --from ... --prompt ...`: a picture taken to noise, and back otherwise."""

import argparse
from typing import Any

from flows.cli.commands.sample import MAX_NFE, MAX_PROMPTS, find, opened, picture, section, writable
from flows.cli.paths import given

EXACT = "{name: bdia, gamma: 0.96}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which picture, and what it is to become."""
    parser.add_argument("model", type=given, help="teacher, distill@tdm1, an artefact's folder, or a model's folder")
    parser.add_argument("--image", type=given, required=True, help="a picture: what is not of its shape is cut off")
    parser.add_argument("--from", dest="source", default="", metavar="PROMPT", help="what it shows (the empty prompt)")
    parser.add_argument(
        "--prompt", action="append", required=True, help=f"what it is to show; may be given {MAX_PROMPTS} times"
    )
    parser.add_argument(
        "--by",
        default=EXACT,
        help="the way to noise and back, in braces: {name: euler, iterations: 1}, {name: rf_inversion, gamma: 0.5, "
        f"eta: 0.9, until: 0.75}} or {{name: bdia, gamma: 0.96}} ({EXACT})",
    )
    parser.add_argument("--steps", type=int, default=28, help=f"even ones, each way (28; 1 to {MAX_NFE})")
    parser.add_argument("--guidance", type=float, default=1.0, help="towards the new prompt; 1 is none (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=given, default="edit.png", help="the picture's file (edit.png)")


def main(parsed: argparse.Namespace) -> int:
    """Write one picture: beside each other it, and what it becomes of each prompt."""
    way = _checked(parsed)
    folder = find(parsed.model)

    from flows.project import parameters, storage
    from stages.io import places
    from stages.models import load

    storage.settle(parameters.read())
    model = load(places.view(str(folder.parent)) / folder.name, [parsed.source, *parsed.prompt])
    images = edited(parsed, way, model)
    picture(images, len(images)).save(parsed.out.path)
    print(f"{parsed.out}: the picture and {len(parsed.prompt)} more, {parsed.steps} steps each way by {way.name}")
    return 0


def edited(parsed: argparse.Namespace, way: Any, model: Any) -> Any:
    """Images [1 + prompts, C, H, W]: the picture as the model sees it, and what it becomes of each prompt."""
    import torch

    from stages.core.precision import Wide
    from stages.core.rng import stream
    from stages.core.spec import even
    from stages.models.space import Tokens
    from stages.samplers.prompted import Prompted

    if isinstance(model.space, Tokens):
        raise ValueError(f"{parsed.model}: a model of tokens has no flow that takes a picture to noise and back")
    image = opened(parsed.image, "--image", model.space)
    count = len(parsed.prompt)
    x0 = model.space.encode(image).repeat_interleave(count, 0)
    old, new = torch.ones(count, 1, dtype=torch.int64), torch.arange(2, count + 2)[:, None]
    with torch.no_grad():
        found = way.edited(
            x0,
            Prompted(Wide(model.net), old),
            Prompted(Wide(model.net), new, parsed.guidance),
            even(parsed.steps).times,
            stream(parsed.seed, "edit"),
        )
    return torch.cat([image, model.space.decode(found)])


def _checked(parsed: argparse.Namespace) -> Any:
    """The way that is asked for."""
    from stages.core.config import check
    from stages.samplers.inversion import AnyInversion

    if not 1 <= parsed.steps <= MAX_NFE:
        raise ValueError(f"--steps {parsed.steps}: steps are 1 to {MAX_NFE}")
    if not 0 <= parsed.guidance <= 1000:
        raise ValueError(f"--guidance {parsed.guidance}: it is 0 to 1000, and 1 is none")
    if len(parsed.prompt) > MAX_PROMPTS:
        raise ValueError(f"--prompt: {len(parsed.prompt)} prompts, {MAX_PROMPTS} at most")
    writable(parsed.out)
    return check(AnyInversion, section(parsed.by, "--by"), "--by")  # type: ignore[arg-type]
