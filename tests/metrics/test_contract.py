"""What holds for every metric that parameters may ask for."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml

from stages.core.prompts import Prompt
from stages.metrics.seeing import Seeing
from stages.metrics.table import METRICS, Sampled, chosen
from tests.tiny_pretrained import save_clip, save_dinov2

PARAMS = Path(__file__).parents[2] / "params/metric"


class Pixels:
    """A verifier of which metrics see features alone."""

    attributes = ("it",)

    def judge(self, images, prompts):
        return torch.ones(len(images), 1, dtype=torch.bool)

    def features(self, images):
        return images.flatten(1)


def shown():
    rng = torch.Generator().manual_seed(0)
    prompts = [Prompt(f"{number % 3}") for number in range(20)]
    return Sampled(torch.rand(20, 1, 2, 2, generator=rng), prompts, torch.rand(15, 1, 2, 2, generator=rng), Pixels())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    save_clip(root / "clip")
    save_clip(root / "other", seed=1)
    save_dinov2(root / "dinov2")
    return root


def section(kind, root):
    """Its preset, with what that leaves to the experiment."""
    clip, dinov2 = {"source": str(root / "clip")}, {"kind": "dinov2", "source": str(root / "dinov2")}
    unstated = {"cmmd": clip, "clip_score": clip} | {name: {"features": dinov2} for name in ("fd", "diversity")}
    unstated["manifold"] = {"features": dinov2, "share": "density"}
    return yaml.safe_load((PARAMS / f"{kind}.yaml").read_text()) | unstated.get(kind, {})


def turned(value, root):
    """Another value of a knob."""
    if isinstance(value, Seeing):
        return Seeing(kind="clip", source=str(root / "clip"))
    others = {str(root / "clip"): str(root / "other"), "density": "recall"}
    return others[value] if isinstance(value, str) else 2 * value


@pytest.mark.parametrize("kind", METRICS)
def test_it_is_one_number_whatever_the_order_of_the_samples(kind, root):
    metric, cfg = chosen(section(kind, root), "m")
    given = shown()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    mixed = replace(given, images=given.images[order], prompts=[given.prompts[i] for i in order.tolist()])
    value = metric.measure(cfg, given)
    assert math.isfinite(value)
    assert metric.measure(cfg, mixed) == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", METRICS)
def test_a_preset_is_called_what_its_file_is_called_and_every_knob_is_live(kind, root):
    stated = section(kind, root)
    assert stated["kind"] == kind
    assert METRICS[kind].__name__.endswith(f".{kind}")
    metric, cfg = chosen(stated, "m")
    for field in fields(cfg):
        other = replace(cfg, **{field.name: turned(getattr(cfg, field.name), root)})
        assert metric.measure(cfg, shown()) != metric.measure(other, shown())
        with pytest.raises(ValueError, match=rf"m\.{field.name}: missing"):
            chosen({key: value for key, value in stated.items() if key != field.name}, "m")
