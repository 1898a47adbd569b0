"""A small Stable Diffusion of shapes, trained here from nothing: the checkpoint that experiment=shapes_sd starts from.

    python benchmarks/shapes_sd.py

An AutoencoderKL, a CLIP text encoder and a UNet that predicts noise on Stable Diffusion's schedule, trained one after
the other on the scenes of experiment=shapes and saved as a StableDiffusionPipeline, which diffusers alone samples. A
training that was interrupted goes on where it was when the command is given again.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from safetensors import safe_open
from torch import Generator, Tensor, nn
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from stages.core import tensors  # noqa: E402
from stages.core.rng import stream  # noqa: E402
from stages.io import run  # noqa: E402
from stages.io.dataset import Dataset  # noqa: E402
from stages.io.job import Job  # noqa: E402
from stages.io.params import compose  # noqa: E402
from stages.models.ema import follow, warm  # noqa: E402
from stages.training.loop import Budget  # noqa: E402

SAVE_EVERY_S = 60.0
WIDTH, QUERIES = 64, 4
"""Of the text encoder; and of the head with which it learns: guesses, each of a quarter of the scene."""
_EMPTY = 0.1
"""Share of prompts that the UNet sees replaced by none, for guidance."""
_STATE = "state.safetensors"


@dataclass(frozen=True)
class Plan:
    """How one of the parts is trained."""

    name: str
    iterations: int
    batch_size: int
    lr: float
    ema: float
    """Decay of the average that is kept; 0 keeps the last weights."""


def fit(net: nn.Module, plan: Plan, loss_at: Callable[[Tensor, Generator], Tensor], rows: int, folder: Path) -> None:
    """Train `net` on `loss_at(places of a batch among `rows`, random numbers)`; `folder` holds the state meanwhile.

    Every iteration's random numbers are a function of its number, so a training that is taken up again ends as it
    would have. At the end `net` is the average.
    """
    learnt = dict(net.named_parameters())
    average = {name: nn.Parameter(each.detach().clone(), requires_grad=False) for name, each in learnt.items()}
    optimiser = torch.optim.AdamW(learnt.values(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.0)
    budget = Budget(
        iterations=plan.iterations, ema=plan.ema, clip=1.0, warmup=50, final_lr=0.01, precision="float32", slices=1
    )  # fmt: skip
    begin, saved = _restored(folder / plan.name, learnt, average, optimiser), time.monotonic()
    bar = tqdm(range(begin, plan.iterations), plan.name, plan.iterations, initial=begin, mininterval=2.0)
    for iteration in bar:
        rng = stream(0, f"shapes_sd/{plan.name}", iteration)
        for group in optimiser.param_groups:
            group["lr"] = plan.lr * budget.lr_factor(iteration)
        loss = loss_at(torch.randint(rows, (plan.batch_size,), generator=rng), rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt.values(), budget.clip)
        optimiser.step()
        follow(average, learnt, warm(plan.ema, iteration + 1))
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        last = iteration + 1 == plan.iterations
        if last or time.monotonic() - saved > SAVE_EVERY_S:
            _keep(folder / plan.name, learnt, average, optimiser, iteration + 1)
            saved = time.monotonic()
    with torch.no_grad():
        for name, each in learnt.items():
            each.copy_(average[name])


def _keep(
    folder: Path, learnt: Mapping[str, Tensor], average: Mapping[str, Tensor], optimiser: Any, iteration: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    moments = optimiser.state_dict()["state"]
    kept = {f"net!{name}": each for name, each in learnt.items()}
    kept |= {f"average!{name}": each for name, each in average.items()}
    kept |= {f"{place}!{name}": value for place, state in moments.items() for name, value in state.items()}
    tensors.save(folder / f".{_STATE}", kept, {"iteration": str(iteration)})
    (folder / f".{_STATE}").replace(folder / _STATE)


@torch.no_grad()
def _restored(folder: Path, learnt: Mapping[str, Tensor], average: Mapping[str, Tensor], optimiser: Any) -> int:
    """The iteration that was reached, 0 where none was."""
    if not (folder / _STATE).is_file():
        return 0
    with safe_open(folder / _STATE, framework="pt") as state:
        kept = {name: state.get_tensor(name) for name in state.keys()}
        iteration = int(state.metadata()["iteration"])
    for name in learnt:
        learnt[name].copy_(kept[f"net!{name}"])
        average[name].copy_(kept[f"average!{name}"])
    words = ("step", "exp_avg", "exp_avg_sq")
    moments = {place: {word: kept[f"{place}!{word}"] for word in words} for place in range(len(learnt))}
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    return iteration


def scenes(folder: Path, words: Sequence[str]) -> Dataset:
    """The data set of experiment=shapes, made in `folder`, unless it was before."""
    composed = yaml.safe_load(compose(ROOT / "params", ["experiment=shapes", *words]))
    job = Job(stage="dataset", arm=None, seed=composed["seed"], section=composed["dataset"], inputs={})
    if not (folder / "manifest.json").is_file():
        run.run(job, folder, folder.with_name("units"), lambda _step, _metrics: None)
    return Dataset.load(folder)


def autoencoder(data: Dataset, plan: Plan, work: Path) -> Any:
    """AutoencoderKL: 16x16 images to latents of 4 channels and half the side, its scale measured."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(16, 32), layers_per_block=1, latent_channels=4,
        norm_num_groups=8, sample_size=data.sample_shape[-1], mid_block_add_attention=False,
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
    net = UNet2DConditionModel(
        sample_size=data.sample_shape[-1] // 2, in_channels=4, out_channels=4, block_out_channels=(64, 96),
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=8, cross_attention_dim=WIDTH, attention_head_dim=2,
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


def make(out: Path, plans: Mapping[str, Plan], words: Sequence[str]) -> None:
    """Train the parts, and write the pipeline to `out`, whole or not at all; what was begun lies beside it."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    work = out.with_name(f"{out.name}.work")
    data = scenes(work / "dataset", words)
    parts: dict[str, Any] = {
        "scheduler": PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True,
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
    shutil.rmtree(work)


PLANS = (
    Plan("vae", iterations=5000, batch_size=32, lr=3e-3, ema=0.0),
    Plan("text", iterations=4000, batch_size=64, lr=2e-3, ema=0.0),
    Plan("unet", iterations=8000, batch_size=64, lr=1e-3, ema=0.999),
)


def main() -> int:
    """Make the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "data/base/shapes_sd")
    parser.add_argument("--threads", type=int, default=1)
    for plan in PLANS:
        parser.add_argument(f"--{plan.name}", type=int, default=plan.iterations, metavar="ITERATIONS")
    parser.add_argument("words", nargs="*")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    make(told.out, {plan.name: replace(plan, iterations=getattr(told, plan.name)) for plan in PLANS}, told.words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
