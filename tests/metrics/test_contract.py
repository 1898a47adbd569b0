"""What holds for every metric that parameters may ask for."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml

from stages.core.prompts import Prompt
from stages.metrics.table import METRICS, Sampled, chosen

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


def section(kind):
    return yaml.safe_load((PARAMS / f"{kind}.yaml").read_text())


@pytest.mark.parametrize("kind", METRICS)
def test_it_is_one_number_whatever_the_order_of_the_samples(kind):
    metric, cfg = chosen(section(kind), "m")
    given = shown()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    mixed = replace(given, images=given.images[order], prompts=[given.prompts[i] for i in order.tolist()])
    value = metric.measure(cfg, given)
    assert math.isfinite(value)
    assert metric.measure(cfg, mixed) == pytest.approx(value)


@pytest.mark.parametrize("kind", METRICS)
def test_a_preset_is_called_what_its_file_is_called_and_every_knob_is_live(kind):
    stated = section(kind)
    assert stated["kind"] == kind
    assert METRICS[kind].__name__.endswith(f".{kind}")
    metric, cfg = chosen(stated, "m")
    for field in fields(cfg):
        other = replace(cfg, **{field.name: 2 * getattr(cfg, field.name)})
        assert metric.measure(cfg, shown()) != metric.measure(other, shown())
        with pytest.raises(ValueError, match=rf"m\.{field.name}: missing"):
            chosen({key: value for key, value in stated.items() if key != field.name}, "m")
