"""What holds for every metric that parameters may ask for."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml

from stages.core.derivative import Difference
from stages.core.derivative import Forward as Jvp
from stages.core.prompts import Prompt
from stages.metrics.likelihood import Exact, Hutchinson
from stages.metrics.seeing import Seeing
from stages.metrics.table import METRICS, Flow, Sampled, chosen
from stages.models import space
from stages.samplers.schedules.log_uniform import LogUniform
from stages.samplers.schedules.uniform import Uniform
from tests.tiny_pretrained import save_clip, save_dinov2

pytestmark = pytest.mark.slow

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
    images, real = torch.rand(20, 1, 2, 2, generator=rng), torch.rand(15, 1, 2, 2, generator=rng)
    flow = Flow(bent, space.Pixels((1, 2, 2)), "pixels", torch.zeros(15, 1, dtype=torch.int64))
    return Sampled(images, prompts, real, Pixels(), flow)


def bent(x, t, _cond):
    """A velocity without a closed form."""
    return (x * (1 - t.reshape(-1, 1, 1, 1))).sin() + 0.2 * x.flip(2) * x


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
    unstated["likelihood"] = {"num_samples": 8}
    unstated["manifold"] = {"features": dinov2, "share": "density"}
    return yaml.safe_load((PARAMS / f"{kind}.yaml").read_text()) | unstated.get(kind, {})


def turned(value, root):
    """Another value of a knob."""
    if isinstance(value, Seeing):
        return Seeing(kind="clip", source=str(root / "clip"))
    if isinstance(value, Jvp | Hutchinson | LogUniform):
        return {Jvp: Difference(name="difference", step=0.1), Hutchinson: Exact(name="exact")}.get(
            type(value), Uniform(name="uniform", steps=4)
        )
    others = {"bits": "error", str(root / "clip"): str(root / "other"), "density": "recall"}
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
