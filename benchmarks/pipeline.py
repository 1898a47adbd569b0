"""Our sampler against diffusers' pipeline loop, and against bare calls of the network: the same latents by equal steps.

    python benchmarks/pipeline.py

Of a Stable Diffusion 3 with random weights: the prompt is encoded before, nothing is decoded.
Side by side in one process, as `benchmarks/loop.py` times it. Processor time, on one thread.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import diffusers
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.loop import compare  # noqa: E402
from stages.core.guidance import guided  # noqa: E402
from stages.core.rng import normal_at, seeded  # noqa: E402
from stages.models import TextTable  # noqa: E402
from stages.models.checkpoint import Checkpoint  # noqa: E402
from stages.models.pretrained import PipelineText, build  # noqa: E402
from stages.samplers import sample  # noqa: E402
from tests.models.families import tiny  # noqa: E402

PROMPT, SIDE = "a red disc", 128


def pipeline(width: int) -> diffusers.StableDiffusion3Pipeline:
    """A whole one, whose transformer has 4 layers of `width` channels."""
    with seeded(0):
        small = tiny.sd3()
        config = {**small.transformer.config, "sample_size": SIDE // 8, "num_layers": 4, "dual_attention_layers": ()}
        config |= {"pos_embed_max_size": SIDE // 8, "attention_head_dim": 64, "num_attention_heads": width // 64}
        config["caption_projection_dim"] = width
        small.register_modules(transformer=diffusers.SD3Transformer2DModel.from_config(config))
    return small


def found(folder: Path, width: int, steps: int, guidance: float, rounds: int) -> dict[str, object]:
    """What the sampler takes, as a fraction more than the pipeline's loop and than bare calls."""
    pipeline(width).save_pretrained(folder)
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    at = Checkpoint(folder, tiny.options("sd3", height=SIDE, width=SIDE), str(folder))
    prompts = ["", PROMPT]
    table = TextTable(prompts, PipelineText(at, "cpu").encode(prompts))
    net, noise = build(at, table), normal_at(0, "noise", 0, 1, (4, SIDE // 8, SIDE // 8))
    told = pipe.encode_prompt(PROMPT, None, None, negative_prompt="", max_sequence_length=at.text_length)
    embeds = dict(zip(
        ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"), told,
        strict=True,
    ))  # fmt: skip
    cond, velocity = torch.tensor([[1]]), guided(net, guidance)
    words = {name: torch.cat([rows] * (2 if guidance != 1 else 1)) for name, rows in net.text(cond).items()}

    def theirs() -> torch.Tensor:
        return pipe(
            **embeds, latents=noise, height=SIDE, width=SIDE, num_inference_steps=steps, guidance_scale=guidance,
            output_type="latent", return_dict=False,
        )[0]  # fmt: skip

    end, times = theirs(), pipe.scheduler.sigmas.tolist()

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return sample(lambda x, t: velocity(x, t, cond), noise, times, "euler").x0

    @torch.no_grad()
    def bare() -> None:
        x = noise.repeat(2 if guidance != 1 else 1, 1, 1, 1)
        for now, _ in pairwise(times):
            at.family.velocity(net.body, x, torch.full((len(x),), now), words, at)

    gap = float((ours() - end).abs().max() / end.abs().max())
    assert gap < 1e-4, f"other latents than the pipeline's, by {gap}"
    return {"over the pipeline": compare(ours, theirs, rounds), "over bare calls": compare(ours, bare, rounds)}


def main() -> None:
    """Print the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41, help="pairs of timings (default 41)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = partial(found, Path(folder), rounds=args.rounds)
        for width in (64, 512):
            for steps, guidance in ((4, 1.0), (28, 1.0), (28, 3.0)):
                one = made(width=width, steps=steps, guidance=guidance)
                print(json.dumps({"width": width, "steps": steps, "guidance": guidance, **one}), flush=True)


if __name__ == "__main__":
    main()
