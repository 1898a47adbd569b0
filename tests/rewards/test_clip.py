"""Rewards by a CLIP: against transformers' own numbers, on folders made here."""

import json
import shutil

import pytest
import torch

from stages import rewards
from stages.core.pictures import pictures
from stages.core.prompts import Prompt
from stages.io import sources
from stages.rewards import Given, aesthetic, terms, weighted
from tests.tiny_pretrained import TOKENS, save_clip, save_head

PROMPTS = [Prompt("a cat"), Prompt("a dog"), Prompt("two cats")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def built(**stated):
    return weighted(terms({"it": {"weight": 1.0, **stated}}, "r"), Given(None, "cpu"))


def by_transformers(folder, images, texts):
    """Logits of each image for its own text, and the image embeddings of length 1, by the model's own forward."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=pictures(images), return_tensors="pt")
    words = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**words, **pixels)
    return out.logits_per_image.diagonal(), out.image_embeds, model.logit_scale.exp().item()


def test_every_scale_is_what_its_paper_says(clip, images):
    logits, _, scale = by_transformers(clip, images, [prompt.text for prompt in PROMPTS])
    source = {"source": str(clip)}
    torch.testing.assert_close(built(kind="pickscore", **source, processor=source)(images, PROMPTS), logits)
    torch.testing.assert_close(built(kind="clip_score", **source)(images, PROMPTS), 100 * logits / scale)
    torch.testing.assert_close(built(kind="hpsv2", **source)(images, PROMPTS), logits / scale)


def test_the_aesthetic_head_sees_an_embedding_of_length_1(clip, images, tmp_path):
    (tmp_path / "folder").mkdir()
    w1, b1, w2, b2 = save_head(tmp_path / "head.safetensors")
    _, embedded, _ = by_transformers(clip, images, ["a"] * 3)
    save_head(tmp_path / "folder" / aesthetic.FILE)
    for head in ("head.safetensors", "folder"):
        reward = built(kind="aesthetic", source=str(clip), head={"source": str(tmp_path / head)})
        torch.testing.assert_close(reward(images, PROMPTS), ((embedded @ w1.T + b1) @ w2.T + b2)[:, 0])


def test_nothing_between_two_levels_is_seen(clip, images):
    reward = built(kind="clip_score", source=str(clip))
    seen = (255 * images).round() / 255
    assert torch.equal(reward(images, PROMPTS), reward(seen + 1e-4, PROMPTS))
    assert torch.equal(reward(images + 2, PROMPTS), reward(torch.ones_like(images), PROMPTS)), "nor beyond white"


def test_a_prompt_is_cut_where_the_model_ends(clip, images):
    reward = built(kind="clip_score", source=str(clip))
    long = [Prompt("x" * (TOKENS - 2) + end) for end in ("", "yyy", "zzz")]
    first = images[:1].repeat(3, 1, 1, 1)
    one, other, last = reward(first, long)
    torch.testing.assert_close(other, last)
    assert one.isfinite()


def test_a_video_is_worth_the_mean_of_its_frames(clip, images):
    reward = built(kind="clip_score", source=str(clip))
    video = torch.stack([images, images.flip(3)], dim=2)
    expected = (reward(images, PROMPTS) + reward(images.flip(3), PROMPTS)) / 2
    torch.testing.assert_close(reward(video, PROMPTS), expected)


def test_what_is_no_network_is_refused_by_its_name(clip, tmp_path):
    with pytest.raises(ValueError, match=r"/nowhere: no such folder or file"):
        built(kind="clip_score", source="/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no network of transformers; config\.json is missing"):
        built(kind="clip_score", source=str(tmp_path / "empty"))
    shutil.copytree(clip, tmp_path / "pickle")
    (tmp_path / "pickle/model.safetensors").rename(tmp_path / "pickle/pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pickle: no weights as safetensors .*pytorch_model\.bin.*nothing is unpickled"
    ):
        built(kind="clip_score", source=str(tmp_path / "pickle"))
    shutil.copytree(clip, tmp_path / "cut")
    (tmp_path / "cut/model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"cut: CLIPModel cannot read it"):
        built(kind="clip_score", source=str(tmp_path / "cut"))
    (tmp_path / "head.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"head\.safetensors: no safetensors file"):
        built(kind="aesthetic", source=str(clip), head={"source": str(tmp_path / "head.safetensors")})


@pytest.mark.parametrize("source", ["hub:openai/clip", "hub:clip@main", "hub:a/b@", ""])
def test_a_model_of_the_hub_is_pinned(source):
    with pytest.raises(ValueError, match=r"r\.it\.source: .*hub:<owner>/<name>@<revision>"):
        terms({"it": {"kind": "clip_score", "weight": 1.0, "source": source}}, "r")


def test_missing_weights_are_told_before_any_work(clip):
    stated = {"kind": "clip_score", "weight": 1.0, "source": "/nowhere/a"}
    with pytest.raises(ValueError, match=r"^r\.one: /nowhere/a: no such .*\nr\.two: /nowhere/b: no such"):
        rewards.expect(terms({"one": stated, "two": {**stated, "source": "/nowhere/b"}}, "r"), None)
    rewards.expect(terms({"one": {**stated, "source": str(clip)}}, "r"), None)


def test_other_bytes_are_another_digest_and_are_read_again(clip, images, tmp_path):
    shutil.copytree(clip, tmp_path / "mine")
    source = str(tmp_path / "mine")
    before, score = sources.digest(source), built(kind="clip_score", source=source)(images, PROMPTS)
    assert before == sources.digest(str(clip)), "names and bytes, wherever they lie"
    save_clip(tmp_path / "mine", seed=1)
    assert sources.digest(source) != before
    assert not torch.equal(built(kind="clip_score", source=source)(images, PROMPTS), score)


def test_every_source_is_found_wherever_it_stands():
    section = {
        "a": {"source": "x"},
        "b": [{"head": {"source": "y", "other": 1}}, {"source": "hub:o/n@1"}],
        "source": "x",
    }
    assert sources.named(section) == ["x", "y", "hub:o/n@1"]
    assert sources.watched(section, 4, "-") == ["x", "y", "-", "-"]
    with pytest.raises(ValueError, match=r"w: 2 folders of weights, and DVC watches 1"):
        sources.few({"a": {"source": "/"}, "b": {"source": "/tmp"}}, 1, "w")
    assert json.dumps(section)
