"""`fewstep search sampler=search calls=6`: fit a sampler to the teacher, and write it for models to be sampled by.

It is `reflow` that fits (`reflow.samplers`): kept and recorded like anything else. What it found becomes a preset.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

FITS, FOUND = Path("params/fit"), Path("params/sampler")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
KEY = "sampler"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which fit, its knobs, and Hydra overrides."""
    parser.add_argument(
        "words",
        nargs="+",
        help="sampler=<one of params/fit>, its knobs (calls=6 guidance=3.0), and overrides of the experiment",
    )
    parser.add_argument("--name", help="what it is called from then on (the fit's name)")


def main(parsed: argparse.Namespace) -> int:
    """0 if the sampler is there, in params/sampler."""
    from flows.cli.commands import run
    from stages.io import places
    from stages.io.steps import fitted_at

    fit, others = _fit(parsed.words)
    name = parsed.name or fit
    if not NAME.fullmatch(name):
        raise ValueError(f"--name {name}: a letter, then up to 63 letters, digits, _ or -")
    run.main(argparse.Namespace(overrides=overrides(name, fit, others), until=["reflow"]))
    text = fitted_at(places.view("data/reflow"), name).read_text(encoding="utf-8")
    file = keep(name, text)
    print(f"{file}: {told(text)}")
    picture = " --told small.png" if restores(text) else ""
    print(f'  fewstep sample teacher --prompt ...{picture} --sampler "$(cat {file})"')
    if not picture:
        print(f"  fewstep run +{KEY}@distill.arms.<arm>.sampler={name}    # a student that carries it")
    return 0


def _fit(words: Sequence[str]) -> tuple[str, list[str]]:
    """The fit that is named, and the other words."""
    named = [word.partition("=")[2] for word in words if word.partition("=")[0] == KEY]
    known = sorted(file.stem for file in FITS.glob("*.yaml"))
    if len(named) != 1 or named[0] not in known:
        raise ValueError(f"search: name one of {', '.join(known)}, as in {KEY}={known[0] if known else '...'}")
    return named[0], [word for word in words if word.partition("=")[0] != KEY]


def overrides(name: str, fit: str, words: Sequence[str]) -> list[str]:
    """What `fewstep run` is told; a word that begins with a knob of the fit is that knob's."""
    import yaml

    knobs = yaml.safe_load((FITS / f"{fit}.yaml").read_text(encoding="utf-8"))
    own = [word for word in words if re.split(r"[.=]", word)[0] in knobs]
    others = [word for word in words if word not in own]
    place = f"reflow.samplers.{name}"
    return [*others, f"+fit@{place}={fit}", *(f"{place}.{word}" for word in own)]


def keep(name: str, text: str) -> Path:
    """Write a sampler, JSON, as a preset."""
    import yaml

    stated = yaml.safe_load(text)
    FOUND.mkdir(parents=True, exist_ok=True)
    file = FOUND / f"{name}.yaml"
    head = "# Found by `fewstep search`.\n"
    file.write_text(head + yaml.safe_dump(stated, sort_keys=False, default_flow_style=None), encoding="utf-8")
    return file


def restores(text: str) -> bool:
    """Whether a sampler, JSON, is for pictures that are told alone."""
    import yaml

    return yaml.safe_load(text)["rule"]["name"] == "boundary_condition"


def told(text: str) -> str:
    """A sampler in a few words."""
    import yaml

    from stages.core.config import check
    from stages.samplers.spec import Sampler, calls

    spec = check(Sampler, yaml.safe_load(text), "sampler").spec
    times = " ".join(f"{time:.3g}" for time in spec.times[:9]) + (" ..." if spec.num_steps > 8 else "")
    return f"{spec.called} in {spec.num_steps} steps, {calls(spec):g} passes a sample; times {times}"
