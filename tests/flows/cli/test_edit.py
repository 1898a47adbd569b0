"""How `fewstep edit` reads a picture and what it makes of it."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from flows.cli.commands import edit
from flows.cli.main import main
from flows.cli.paths import given
from stages.core.config import check
from stages.models.space import Pixels, Points
from stages.samplers.inversion import AnyInversion
from tests.training.gaussian import GaussianVelocity

EXACT = check(AnyInversion, {"name": "bdia", "gamma": 1.0}, "by")


def model(means=(0.0, 0.0, -0.4, 0.4), space=Pixels((1, 4, 4))):  # noqa: B008 - it is frozen
    """Of Gaussian pixels, whose mean is the prompt's: the empty one's, the picture's own, a's and b's."""
    return SimpleNamespace(net=GaussianVelocity(list(means), 0.5).float(), space=space)


@pytest.fixture
def asked(tmp_path):
    levels = torch.arange(64.0).view(8, 8) * 4
    Image.fromarray(levels.byte().numpy()).save(tmp_path / "in.png")

    def made(**changes):
        told = {"image": given(str(tmp_path / "in.png")), "prompt": ["a", "b"], "guidance": 1.0, "steps": 8, "seed": 0}
        return SimpleNamespace(**told | changes)

    return made


def test_the_picture_comes_first_and_each_prompt_moves_it(asked):
    images = edit.edited(asked(), EXACT, model())
    assert images.shape == (3, 1, 4, 4)
    levels = 4 * torch.arange(64.0).view(4, 2, 4, 2).mean(dim=(1, 3)) / 255
    torch.testing.assert_close(images[0, 0], levels, atol=1 / 255, rtol=0)
    inner = images[:, 0, 1:3]
    assert [(inner[k] - inner[0]).mean().item() for k in (1, 2)] == pytest.approx([-0.2, 0.2], abs=0.03)


def test_where_all_prompts_are_one_it_is_the_picture_again(asked):
    images = edit.edited(asked(), EXACT, model((0.1,)))
    torch.testing.assert_close(images[1:], images[:1].expand(2, -1, -1, -1), atol=1e-5, rtol=0)


def test_pictures_that_the_model_has_none_of_are_refused(asked, tmp_path):
    (tmp_path / "no.png").write_text("none")
    for name, message in (("none.png", "--image .*: no file that ends in .png"), ("no.png", "no image that can be")):
        with pytest.raises(ValueError, match=message):
            edit.edited(asked(image=given(str(tmp_path / name))), EXACT, model())
    with pytest.raises(ValueError, match=r"samples of shape \[2, 1, 1\] are no pictures; take a model of pictures"):
        edit.edited(asked(), EXACT, model(space=Points((2, 1, 1))))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "--steps 0: steps are 1 to 1000"),
        (["--guidance", "nan"], "--guidance nan: it is 0 to 1000, and 1 is none"),
        (["--by", "{name: ["], "--by: not YAML"),
        (["--by", "{name: ddim}"], "--by.name: 'ddim' is none of euler, rf_inversion, bdia"),
        (["--by", "{name: bdia, gamma: 0.1}"], "--by.gamma: "),
        (["--out", "it.gif"], "--out it.gif: a picture ends in .png, .jpg or .webp"),
        ([], "teacher: no model here; there are: none yet"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    assert main(["edit", "teacher", "--image", "in.png", "--prompt", "a", *words]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]
