"""What is no checkpoint, or not the one it was, is told in one clear message before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stages.core.spec import even
from stages.io import run
from stages.io.expected import Expected
from stages.io.job import Job
from stages.models import TextTable, export, load, table_of
from stages.models.experts import Experts
from stages.models.pretrained import PipelineText, build
from stages.models.sketch import Sketch
from stages.models.table import Batches, Index
from stages.training.tune import Lora, Sharded, Whole, begins, fits
from tests.models.families import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved("sd3", tmp_path_factory.mktemp("bad") / "sd3")


def edited(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in {**content, **changes}.items() if value is not None}))


def pickled(folder: Path) -> None:
    (folder / "transformer/diffusion_pytorch_model.safetensors").rename(
        folder / "transformer/diffusion_pytorch_model.bin"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no such folder; name the folder of a diffusers pipeline"),
        (lambda folder: (folder / "model_index.json").unlink(), r"not the folder .* \(model_index.json is missing\)"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json: not readable"),
        (
            lambda folder: edited(folder / "model_index.json", _class_name="KandinskyPipeline"),
            r"a KandinskyPipeline, none of the families known here: .*StableDiffusion3Pipeline",
        ),
        (pickled, "diffusion_pytorch_model.bin: a pickle, which may run code; convert the weights to safetensors"),
        (
            lambda folder: edited(folder / "model_index.json", text_encoder_3=[None, None]),
            "model_index.json names no text_encoder_3, which StableDiffusion3Pipeline needs",
        ),
        (lambda folder: shutil.rmtree(folder / "text_encoder"), "the folder text_encoder is missing"),
        (
            lambda folder: edited(folder / "model_index.json", transformer=["own_code", "Net"]),
            "transformer is a own_code.Net; code that a checkpoint brings is not run",
        ),
        (lambda folder: (folder / "vae/config.json").unlink(), "vae/config.json: missing"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(
    checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        export.found(str(folder), tiny.options("sd3")).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 24}, "height=24: not a multiple of 16, as StableDiffusion3Pipeline needs"),
        ({"frames": 9}, "frames=9: StableDiffusion3Pipeline makes images; set it to null"),
        ({"embedded_guidance": 3.5}, "embedded_guidance: the denoiser takes none; set it to null"),
        ({"variant": "fp16"}, r"no weights here \(diffusion_pytorch_model.fp16.safetensors is missing\)"),
    ],
)
def test_options_that_the_checkpoint_has_no_use_for_are_refused(
    checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export.found(str(checkpoint), tiny.options("sd3", **changes)).check()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wan", {"frames": None}, "frames: WanPipeline makes videos; say how many frames they have"),
        ("wan", {"frames": 6}, "frames=6: the VAE takes one and a multiple of 2 more, such as 5 or 7"),
        ("cogvideox", {"text_length": 9}, "text_length=9: the network reads 7 tokens; state that"),
        ("flux2_klein", {"negative_prompt": "red"}, "negative_prompt: Flux2KleinPipeline knows none but the empty one"),
    ],
)
def test_options_that_do_not_fit_a_family_are_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    folder = tiny.saved(name, tmp_path / name)
    with pytest.raises(ValueError, match=message):
        export.found(str(folder), tiny.options(name, **changes)).check()


@pytest.mark.parametrize(
    ("name", "file", "word", "message"),
    [
        ("cogvideox", "transformer", {"patch_size_t": 2}, "frames=5: 3 in latent space, where the network takes 2 at"),
        ("wan", "vae", {"scale_factor_spatial": 16}, "height=16: a multiple of 32 is needed"),
    ],
)
def test_sizes_that_a_network_cannot_cut_are_refused(
    tmp_path: Path, name: str, file: str, word: dict[str, Any], message: str
) -> None:
    folder = tiny.saved(name, tmp_path / name)
    edited(folder / file / "config.json", **word)
    with pytest.raises(ValueError, match=message):
        export.found(str(folder), tiny.options(name)).check()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:some/model", "no revision; say hub:some/model@<revision>"),
        ("hub:not a name@main", "Repo id must"),
        ("hub:some/model@main", "not to be had .*; name a folder that holds it"),
    ],
)
def test_a_hub_source_without_a_revision_or_a_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        export.found(source, tiny.options("sd3"))


def test_another_checkpoint_in_the_same_place_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    at = export.found(str(folder), tiny.options("sd3"))
    export.imported(tmp_path / "model", at, even(2), copied=False)
    prompts = ["", *tiny.PROMPTS]
    table = TextTable(prompts, PipelineText(at, "cpu").encode(prompts))
    load(tmp_path / "model", table)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"another checkpoint than .*: transformer/diffusion_py.* another content"):
        load(tmp_path / "model", table)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="is missing"):
        load(tmp_path / "model", table)


def test_adapters_go_beside_a_checkpoint_and_go_on_with_their_own_rank() -> None:
    tune = Lora(kind="lora", rank=4, alpha=4.0, targets="default", checkpointing=False, compile=False)
    fits(tune, "distill.arms.a", Expected(model="checkpoint", rank=4))
    with pytest.raises(ValueError, match=r"distill\.arms\.a\.tune\.rank=4: .* has adapters of rank 8; name that"):
        fits(tune, "distill.arms.a", Expected(model="checkpoint", rank=8))
    with pytest.raises(
        ValueError, match=r"tune\.kind=lora: adapters are for checkpoints, this model is trained; set it to full"
    ):
        fits(tune, "distill.arms.a", Expected(model="trained"))
    with pytest.raises(ValueError, match="another fault"):
        fits(tune, "distill.arms.a", Expected(model="checkpoint", fault="another fault"))
    whole = Whole(kind="full")
    begins(whole, "distill.arms.a", Expected(model="checkpoint"))
    with pytest.raises(ValueError, match=r"a\.tune\.kind=full: .* has adapters; set it to lora, of rank 8"):
        begins(whole, "distill.arms.a", Expected(model="checkpoint", rank=8))


def test_only_one_network_is_held_in_parts_and_recomputed_if_it_is_a_checkpoint_s() -> None:
    whole, again = (Sharded(kind="sharded", checkpointing=given) for given in (False, True))
    fits(whole, "a", Expected(model="trained"))
    fits(again, "a", Expected(model="checkpoint"))
    with pytest.raises(ValueError, match=r"a\.tune\.checkpointing=true: it is for checkpoints, this model is trained"):
        fits(again, "a", Expected(model="trained"))
    two = Sketch(lambda: Experts({"high": nn.Linear(1, 1), "low": nn.Linear(1, 1)}, 0.5), (1, 4, 4), 0)
    with pytest.raises(ValueError, match=r"a\.tune\.kind=sharded: this model is several networks"):
        fits(whole, "a", Expected(model="checkpoint", sketch=two))
    with pytest.raises(ValueError, match=r"a\.tune\.kind=sharded: .* has adapters; set it to lora, of rank 8"):
        begins(whole, "a", Expected(model="checkpoint", rank=8))


def test_prompts_that_are_cut_are_named_with_how_much(checkpoint: Path) -> None:
    encoder = PipelineText(export.found(str(checkpoint), tiny.options("sd3")), "cpu")
    assert encoder.cut(["a red disc", "a red disc left upright 7 3 blue"]) == {"a red disc left upright 7 3 blue": 2}


def test_a_table_of_another_length_is_refused_where_no_mask_tells_the_pads(checkpoint: Path) -> None:
    at = export.found(str(checkpoint), tiny.options("sd3"))
    table = TextTable([""], {"hidden": torch.zeros(1, 13, 32), "pooled": torch.zeros(1, 32)})
    with pytest.raises(ValueError, match="reads 14 tokens of each prompt, and the text table has 13; without a mask"):
        build(at, table)


def test_encoders_that_are_others_now_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """A copied checkpoint's lie with the table, and nothing that would sample."""
    source, prompts, held = tmp_path / "source", ["", *tiny.PROMPTS], "encoders/base"
    shutil.copytree(checkpoint, source)
    at = export.found(str(source), tiny.options("sd3"))
    for name, copied in (("copied", True), ("named", False)):
        export.imported(tmp_path / name, at, even(2), copied=copied)
        export.encoders(tmp_path / name, tmp_path / f"of {name}/encoders")
        index = Index(prompts=prompts, length=14, batches=Batches(shard_size=4, batch_size=1))
        index.write(tmp_path / f"of {name}")
    weights = source / "text_encoder_3/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"another checkpoint than .*: text_encoder_3/model\.safe.* another content"):
        table_of(tmp_path / "of named")
    table_of(tmp_path / "of copied")
    assert (tmp_path / "of copied" / held / "text_encoder_3/model.safetensors").is_file()
    assert not list((tmp_path / "of copied" / held / "transformer").glob("*.safetensors"))
    assert not (tmp_path / "of named" / held).exists()


def test_a_teacher_that_is_no_checkpoint_has_its_table_stored() -> None:
    section = {"table": "on_demand", "shard_size": 4, "batch_size": 1, "image_shard_size": 4}
    job = Job(stage="encode", arm=None, seed=0, section=section, inputs={})
    message = r"encode\.table=on_demand: a checkpoint's encoders .* and the teacher is none; .* set it to stored"
    cfg = run.configure(job)
    with pytest.raises(ValueError, match=message):
        run.expect(job, cfg, {"dataset": None, "teacher": Expected(model="trained")})
    run.expect(job, cfg, {"dataset": None, "teacher": Expected(model="checkpoint")})
