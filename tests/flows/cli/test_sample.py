"""How `fewstep sample` is told to sample."""

from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image

from flows.cli.commands import sample
from flows.cli.main import main
from flows.cli.paths import given
from stages.core.spec import even
from stages.models import Student
from stages.models.space import Pixels
from stages.samplers.student import Noise

OWN = even(3, rule="renoise", guidance=2.0)


def told(nfe=None, sampler=None, own=OWN):
    return sample._sampler(Namespace(nfe=nfe, sampler=sampler), own)


def test_a_model_is_sampled_in_its_own_way_unless_another_is_named():
    assert told() is OWN
    assert told(nfe=4) == even(4, guidance=2.0)
    of_tokens = even(3, rule="uniform_state", last="likeliest", guidance=2.0)
    assert told(nfe=4, own=of_tokens) == even(4, rule="uniform_state", last="likeliest", guidance=2.0)
    found = told(sampler="{rule: {name: heun}, schedule: {name: shifted, steps: 2, shift: 3.0}, guidance: 1.5}")
    assert (found.rule, found.times, found.guidance) == ({"name": "heun"}, (1.0, 0.75, 0.0), 1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{rule: [", "--sampler: not YAML"),
        ("heun", "--sampler: should be a mapping of parameters"),
        (
            "{rule: {name: heunn}, schedule: {name: uniform, steps: 2}, guidance: 1.0}",
            r"--sampler\.rule\.name: 'heunn'",
        ),
        ("{rule: {name: heun}, schedule: {name: uniform, steps: 2000}, guidance: 1.0}", "2000 steps, 1000 at most"),
    ],
)
def test_a_sampler_that_is_none_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        told(sampler=text)


def test_one_way_is_named_and_not_two(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    assert main(["sample", "teacher", "--prompt", "a", "--nfe", "2", "--sampler", "{}"]) == 1
    assert "--nfe and --sampler: name one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--told", "it.png", "--steering", "{}"], "--told and --steering: name one of them"),
        (["--begin", "picture"], "--begin: it is of a picture; name one by --told"),
        (["--negative", "b", "--steering", "{}"], "--negative: it goes with neither --told nor --steering"),
        (["--negative", "b", "--told", "it.png"], "--negative: it goes with neither --told nor --steering"),
    ],
)
def test_a_picture_to_restore_goes_with_what_it_can(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    assert main(["sample", "teacher", "--prompt", "a", *words]) == 1
    assert message in capsys.readouterr().err


NASA = {"name": "nasa", "weight": 0.2}


@pytest.mark.parametrize(
    ("negative", "guidance", "field", "message"),
    [
        ("b", 1.0, None, "--negative: the sampler has no guidance to lead away from it; state some, or field"),
        (None, 1.0, NASA, "field nasa leads away from a negative prompt; name one by --negative"),
        ("b", 2.0, None, None),
        ("b", 1.0, NASA, None),
        (None, 1.0, None, None),
    ],
)
def test_a_negative_prompt_is_one_that_something_leads_away_from(negative, guidance, field, message):
    spec = replace(OWN, guidance=guidance, field=field)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        sample._leads_away(Namespace(negative=negative), spec)
    sample._leads_away(Namespace(negative=negative), replace(spec, field=None), reads=True)  # or the model itself


def test_a_small_picture_is_told_square_by_square(tmp_path):
    told = []

    def net(x, _t, _cond, z):
        told.append(z)
        return torch.zeros_like(x)

    net.latent_variable = True
    Image.fromarray(torch.tensor([[0, 255], [51, 102]]).byte().numpy()).save(tmp_path / "small.png")
    model = Student(net, even(2), Pixels((1, 4, 4)), None)
    parsed = Namespace(told=given(str(tmp_path / "small.png")), begin=None)
    sample._restored(parsed, model, torch.tensor([[1], [2]]), Noise(0, "sample"))
    levels = torch.tensor([[0, 1], [0.2, 0.4]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(told[0], (2 * levels - 1).expand(2, 1, 4, 4))


def test_videos_are_a_row_of_frames_each_and_a_film(tmp_path):
    videos = torch.linspace(0, 1, 2 * 3 * 4 * 8 * 8).reshape(2, 3, 4, 8, 8)
    rows = sample._strips(videos)
    assert rows.shape == (2, 3, 8, 32)
    assert torch.equal(rows[1, :, :, 8:16], videos[1, :, 1])
    film = sample._film(videos, 2, tmp_path / "sample.png")
    assert film == tmp_path / "sample.gif"
    with Image.open(film) as content:
        assert content.n_frames == 4
        assert content.size == (128, 64)


def test_a_steering_is_checked_before_anything_is_sampled(monkeypatch):
    """Of the rule, the reward and the section itself."""
    model = type("Model", (), {"spec": even(4)})()

    def searched(section):
        return sample._searched(Namespace(steering=section, prompt=["a"], n=1), model, torch.tensor([[1]]), None)

    with pytest.raises(ValueError, match="--steering: not YAML"):
        searched("{name: [")
    with pytest.raises(ValueError, match=r"steering\.name: 'best' is none of best_of_n"):
        searched("{name: best}")
    with pytest.raises(ValueError, match=r"steering\.reward: .*at least one reward"):
        searched("{name: best_of_n, particles: 2, reward: {}}")
