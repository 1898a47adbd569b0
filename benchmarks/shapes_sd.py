"""A small Stable Diffusion of shapes, trained here from nothing: the checkpoint that experiment=shapes_sd starts from.

    python benchmarks/shapes_sd.py make                             # an hour of one core
    python benchmarks/shapes_sd.py score data/distill/tdm4/model    # a student, by stock diffusers

An AutoencoderKL, a CLIP text encoder and a UNet that predicts noise on Stable Diffusion's schedule, trained one after
the other on the scenes of experiment=shapes and saved as a StableDiffusionPipeline, which diffusers alone samples. A
training that was interrupted goes on where it was when the command is given again.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import shapes_sd_score  # noqa: E402
from benchmarks.shapes_sd_fit import Plan, fit  # noqa: E402
from stages.io import run  # noqa: E402
from stages.io.dataset import Dataset  # noqa: E402
from stages.io.job import Job  # noqa: E402
from stages.io.params import compose, parse  # noqa: E402

WIDTH, QUERIES = 64, 4
"""Of the text encoder; and of the head with which it learns: guesses, each of a quarter of the scene."""
_EMPTY = 0.1
"""Share of prompts that the UNet sees replaced by none, for guidance."""


def scenes(folder: Path, words: Sequence[str]) -> Dataset:
    """The data set of experiment=shapes, made in `folder` unless it was before."""
    composed = parse(compose(ROOT / "params", ["experiment=shapes", *words]), "params")
    job = Job(
        stage="dataset",
        arm=None,
        seed=composed["seed"],
        section=composed["dataset"],
        inputs={},
        threads=torch.get_num_threads(),
    )
    if not (folder / "manifest.json").is_file():
        run.run(job, folder, folder.with_name(f"{folder.name}.work"), lambda _step, _metrics: None)
    return Dataset.load(folder)


def autoencoder(data: Dataset, plan: Plan, work: Path) -> Any:
    """AutoencoderKL: 16x16 images to latents of 4 channels and half the side, its scale measured."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(  # pyright: ignore[reportCallIssue] (of `to`)
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(16, 32), layers_per_block=1, latent_channels=4,
        norm_num_groups=8, sample_size=data.sample_shape[-1], mid_block_add_attention=False, scaling_factor=1.0,
    ).to(memory_format=torch.channels_last)  # fmt: skip

    def loss_at(rows: Tensor, rng: Generator) -> Tensor:
        images = 2 * data.train_images[rows].contiguous(memory_format=torch.channels_last) - 1
        posterior = vae.encode(images).latent_dist
        return F.l1_loss(vae.decode(posterior.sample(rng)).sample, images) + 2e-6 * posterior.kl().mean()

    fit(vae, plan, loss_at, len(data.train_images), work)
    vae.register_to_config(scaling_factor=1 / encoded(vae, data.train_images[:4096]).std().item())
    return vae.eval()


@torch.no_grad()
def encoded(vae: Any, images: Tensor) -> Tensor:
    """The modes of the posterior, times the scale."""
    return vae.config.scaling_factor * torch.cat(
        [vae.encode(2 * part - 1).latent_dist.mode() for part in images.split(256)]
    )


def tokenizer(data: Dataset) -> Any:
    """A token a word, between a first and a last one, padded to the longest prompt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for prompt in data.prompts for word in prompt.text.split()})
    known = {word: number for number, word in enumerate(["[PAD]", "[BEGIN]", "[END]", "[UNK]", *words])}
    core = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[BEGIN]", known["[BEGIN]"]), ("[END]", known["[END]"])]
    core.post_processor = processors.TemplateProcessing(single="[BEGIN] $A [END]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", bos_token="[BEGIN]", eos_token="[END]", unk_token="[UNK]",
        model_max_length=max(len(prompt.text.split()) for prompt in data.prompts) + 2,
    )  # fmt: skip


class Reading(nn.Module):
    """A CLIP text encoder that learns what words mean by telling a scene's mean layout from its prompt.

    Its embeddings begin with a spread of 1, not CLIP's 0.02: only so does it learn soon which color is whose.
    """

    def __init__(self, words: Any) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        self.encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
                num_hidden_layers=3, num_attention_heads=8, max_position_embeddings=words.model_max_length,
                pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
                hidden_act="gelu",
            )
        )  # fmt: skip
        for table in (self.encoder.embeddings.position_embedding, self.encoder.embeddings.token_embedding):
            nn.init.normal_(table.weight, std=1.0)
        self.queries = nn.Parameter(0.3 * torch.randn(QUERIES, WIDTH))
        self.look = nn.MultiheadAttention(WIDTH, QUERIES, batch_first=True)
        self.tell = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, 3 * 8 * 8 // QUERIES))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, 3 * 8 * 8], an image of 8x8 in [-1, 1] laid flat, of tokens [B, L]."""
        hidden = self.encoder(input_ids=tokens).last_hidden_state
        asked = self.queries.expand(len(tokens), -1, -1)
        return self.tell(asked + self.look(asked, hidden, hidden)[0]).flatten(1)


def text_encoder(data: Dataset, words: Any, plan: Plan, work: Path) -> Any:
    """CLIPTextModel, which stays as it is from here on."""
    torch.manual_seed(1)
    reading = Reading(words)
    tokens = words([prompt.text for prompt in data.prompts], padding="max_length", return_tensors="pt").input_ids
    layouts = F.adaptive_avg_pool2d(2 * data.train_images - 1, 8).flatten(1)

    def loss_at(rows: Tensor, _rng: Generator) -> Tensor:
        return (reading(tokens[data.train_prompts[rows]]) - layouts[rows]).square().mean()

    fit(reading, plan, loss_at, len(layouts), work)
    return reading.encoder.eval()


def unet(data: Dataset, pipe: Mapping[str, Any], plan: Plan, work: Path) -> Any:
    """UNet2DConditionModel that predicts the noise in latents; the average of its weights."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    torch.manual_seed(2)
    net = UNet2DConditionModel(  # pyright: ignore[reportCallIssue] (of `to`)
        sample_size=data.sample_shape[-1] // 2, in_channels=4, out_channels=4, block_out_channels=(64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, norm_num_groups=8, cross_attention_dim=WIDTH, attention_head_dim=6,
    ).to(memory_format=torch.channels_last)  # fmt: skip
    net.set_attn_processor(AttnProcessor())  # the fused one's backward pass is slow in bfloat16 on a CPU
    latents = encoded(pipe["vae"], data.train_images)
    texts = ["", *(prompt.text for prompt in data.prompts)]
    tokens = pipe["tokenizer"](texts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = pipe["text_encoder"](input_ids=tokens).last_hidden_state
    noises: Any = pipe["scheduler"]

    def loss_at(rows: Tensor, rng: Generator) -> Tensor:
        x0 = latents[rows]
        eps = torch.randn(x0.shape, generator=rng)
        level = torch.randint(len(noises.alphas_cumprod), (len(rows),), generator=rng)
        told = data.train_prompts[rows] + 1
        told = told.where(torch.rand(len(rows), generator=rng) >= _EMPTY, torch.zeros_like(told))
        z = noises.add_noise(x0, eps, level).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            answer = net(z, level, hidden[told], return_dict=False)[0]
        return (answer.float() - eps).square().mean()

    fit(net, plan, loss_at, len(latents), work)
    net.set_attn_processor(AttnProcessor2_0())
    return net.eval()


def make(out: Path, work: Path, plans: Mapping[str, Plan], words: Sequence[str]) -> None:
    """Train the parts, and write the pipeline to `out` at once; `work` holds the data set, and what was begun."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    data = scenes(work / "dataset", words)
    if out.is_dir():
        return
    parts: dict[str, Any] = {
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False,
            set_alpha_to_one=False,
        ),
        "vae": autoencoder(data, plans["vae"], work),
        "tokenizer": tokenizer(data),
    }  # fmt: skip
    parts["text_encoder"] = text_encoder(data, parts["tokenizer"], plans["text"], work)
    parts["unet"] = unet(data, parts, plans["unet"], work)
    pipe = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    pipe.save_pretrained(work / "whole")
    (work / "whole").replace(out)


PLANS = (
    Plan("vae", iterations=5000, batch_size=32, lr=3e-3, ema=0.0),
    Plan("text", iterations=4000, batch_size=64, lr=2e-3, ema=0.0),
    Plan("unet", iterations=5000, batch_size=32, lr=1.5e-3, ema=0.999),
)


def main() -> int:
    """Make the checkpoint, or score one, or a student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="train the checkpoint, then score it")
    making.add_argument("--out", type=Path, default=ROOT / "data/base/shapes_sd", help="default: data/base/shapes_sd")
    making.add_argument("--scenes", nargs="*", default=[], help="other parameters of the data set: dataset.num_train=9")
    for plan in PLANS:
        told = f"of the {plan.name}, default {plan.iterations}"
        making.add_argument(f"--{plan.name}", type=int, default=plan.iterations, metavar="ITERATIONS", help=told)
    scoring = commands.add_parser("score", help="judge images that stock diffusers makes, as JSON")
    scoring.add_argument("folder", type=Path, help="of the checkpoint, or of a student: data/distill/tdm4/model")
    scoring.add_argument("--dataset", type=Path, default=ROOT / "data/dataset", help="default: data/dataset")
    for each in (making, scoring):
        each.add_argument("--threads", type=int, default=1, help="of torch, default 1")
        each.add_argument("--samples", type=int, default=384, help="to judge on each split of prompts, default 384")
        each.add_argument("--steps", type=int, default=32, help="of the checkpoint's DDIM, default 32")
        each.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0], help="of it, default 1 2 3")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.command == "make":
        asked.folder, work = asked.out, asked.out.with_name(f"{asked.out.name}.work")
        asked.dataset = work / "dataset"
        plans = {plan.name: replace(plan, iterations=getattr(asked, plan.name)) for plan in PLANS}
        make(asked.out, work, plans, asked.scenes)
    for guidance in asked.guidance if not shapes_sd_score.is_student(asked.folder) else [1.0]:
        found = shapes_sd_score.score(
            asked.folder, asked.dataset, samples=asked.samples, steps=asked.steps, guidance=guidance
        )
        print(json.dumps({"guidance": guidance, **found}, indent=1), flush=True)
    if asked.command == "make":
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
