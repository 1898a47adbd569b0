"""What holds for every reward, whatever it is."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from stages import rewards
from stages.io.dataset import Dataset
from tests.cells.rigs import ATTRIBUTES, make_inputs
from tests.rewards.servers import answering, judging, preferring, scorer, service
from tests.tiny_pretrained import save_clip, save_detector, save_head
from tests.tiny_vlm import save_hpsv3, save_image_reward

pytestmark = pytest.mark.slow

SILENT = ("detection", "ocr")
"""Rewards that say nothing of prompts without facts of their own."""
ALONE = [name for name, kind in rewards.REWARDS.items() if not hasattr(kind, "COMPARES")]
"""Rewards of one image and its prompt."""
PARAMS = Path(__file__).parents[2] / "params/reward"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    save_clip(root / "clip")
    save_detector(root / "yolos", ["0", "1", "2"])
    save_head(root / "head.safetensors")
    save_hpsv3(root)
    save_image_reward(root)
    with (
        pytest.MonkeyPatch.context() as patch,
        scorer() as there,
        answering(judging) as judge,
        answering(preferring) as other,
    ):
        patch.setenv("FEWSTEP_CACHE", str(root / "cache"))
        (root / "urls.json").write_text(json.dumps({"http": there, "vlm_judge": judge, "vlm_preference": other}))
        yield root


def section(kind, root):
    """Its preset, with what that leaves to the arm."""
    clip = {"source": str(root / "clip")}
    urls = json.loads((root / "urls.json").read_text())
    unstated = {
        "http": {"service": service(urls["http"])},
        "vlm_judge": {"service": service(urls["vlm_judge"]), "model": "m"},
        "vlm_preference": {"service": service(urls["vlm_preference"]), "model": "m"},
        "verifier": {"attributes": {"all": 1.0}},
        "soft_verifier": {"attributes": {"all": 1.0}},
        "linear": {"direction": [1.0]},
        "detection": {"source": str(root / "yolos"), "colors": clip},
        "clip_score": clip,
        "hpsv2": clip,
        "hpsv3": {"source": str(root / "hpsv3"), "backbone": {"source": str(root / "qwen2vl")}},
        "image_reward": {"source": str(root / "ImageReward.safetensors"), "tokenizer": {"source": str(root / "bert")}},
        "pickscore": clip | {"processor": clip},
        "aesthetic": clip | {"head": {"source": str(root / "head.safetensors")}},
    }
    return yaml.safe_load((PARAMS / f"{kind}.yaml").read_text()) | unstated.get(kind, {})


def terms(kind, root):
    return rewards.terms({"it": section(kind, root)}, "r")


def built(kind, root):
    return rewards.weighted(terms(kind, root), rewards.Given(root / "verifier", "cpu"))


@pytest.mark.parametrize("kind", ALONE)
def test_an_image_has_a_number_whatever_is_scored_beside_it(kind, root):
    data, reward = Dataset.load(root / "dataset"), built(kind, root)
    prompts = [data.prompts[place] for place in data.test_prompts.tolist()]
    images = data.test_images.clone().requires_grad_()
    whole = reward(images, prompts)
    assert whole.shape == (len(images),)
    assert whole.isfinite().all() or kind in SILENT
    assert whole.requires_grad == (not rewards.rigid(terms(kind, root)))
    parts = [reward(images[i : i + 7], prompts[i : i + 7]) for i in range(0, len(images), 7)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-4, equal_nan=True)
    assert torch.allclose(reward(images.flip(0), prompts[::-1]), whole.flip(0), atol=1e-4, equal_nan=True)
    assert torch.equal(images, data.test_images), "it writes into nothing"


@pytest.mark.parametrize("kind", rewards.REWARDS)
def test_a_preset_is_called_what_its_file_is_called_and_is_checked(kind, root):
    stated = section(kind, root)
    assert stated["kind"] == kind
    assert rewards.REWARDS[kind].__name__.endswith(f".{kind}")
    rewards.expect(rewards.terms({"it": stated}, "r"), list(ATTRIBUTES))
    with pytest.raises(ValueError, match=r"r\.it\.strange: unknown parameter"):
        rewards.terms({"it": {**stated, "strange": 1}}, "r")
    for field in fields(rewards.REWARDS[kind].Config):
        with pytest.raises(ValueError, match=rf"r\.it\.{field.name}: missing"):
            rewards.terms({"it": {key: value for key, value in stated.items() if key != field.name}}, "r")
