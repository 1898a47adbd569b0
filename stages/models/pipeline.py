"""The pipeline that every exported model folder carries, so that stock diffusers loads it without fewstep:

    DiffusionPipeline.from_pretrained("data/distill/tdm1/model", trust_remote_code=True)("a bold left-slanted 7").images

This file is copied into the folder as it is, hence it imports torch and diffusers alone.
"""

from contextlib import ExitStack

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

_COMPUTED = {
    "scale": lambda values, i, a: a * values[i],
    "add": lambda values, i, j, a: torch.add(values[i], values[j], alpha=a),
    "times": lambda values, i, j: values[i] * values[j],
    "exp": lambda values, i: values[i].exp(),
}
"""Steps that ask nobody, by their name: of the values so far, which they name by number."""


class FewStepPipeline(DiffusionPipeline):
    """A flow model with the sampler it was trained for.

    `sampler` says what that is: times, step rule, guidance. `steps` are the rule's steps, written down: a value is
    known by its number, 0 is the noise, and the last is the image. Without them they are Euler's, at the times. A model
    with a `second_time`, or with a `policy`, is asked for the velocity on average between two; one with a
    `latent_variable` is told noise; one with a `negative_reader` reads a negative prompt, or the empty one. A
    `companion` is another network, which steps called `beside` ask.
    """

    # A list is what diffusers reads.
    _optional_components = ["transformer", "unet", "second_time", "policy", "latent_variable"]  # noqa: RUF012
    _optional_components += ["negative_reader", "companion", "text_encoder", "tokenizer"]

    def __init__(
        self,
        transformer=None,
        unet=None,
        *,
        second_time=None,
        policy=None,
        latent_variable=None,
        negative_reader=None,
        companion=None,
        text_encoder=None,
        tokenizer=None,
        sampler=None,
        steps=None,
        prompts=None,
        space="pixels",
        fold=1,
        companion_fold=1,
    ):
        """`prompts` is the list that a model without a text encoder knows, by place; the first is the empty one.

        `fold` is the side of the squares of pixels that are channels to a UNet, `companion_fold` that of its companion.
        """
        super().__init__()
        sampler = sampler or {"times": [1.0, 0.0], "guidance": 1.0}
        steps = steps or euler(sampler["times"])
        self.register_modules(transformer=transformer, unet=unet, second_time=second_time, policy=policy)
        self.register_modules(latent_variable=latent_variable, negative_reader=negative_reader, companion=companion)
        self.register_modules(text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(sampler=sampler, steps=steps, prompts=prompts, space=space, fold=fold)
        self.register_to_config(companion_fold=companion_fold)

    @torch.no_grad()
    def __call__(
        self,
        prompt,
        num_inference_steps=None,
        guidance_scale=None,
        generator=None,
        latents=None,
        output_type="pil",
        *,
        negative_prompt=None,
    ):
        """Images for `prompt` (a string or a list of them).

        The sampler and `guidance_scale` are the model's own unless given: a few-step student is made for its grid.
        `num_inference_steps` are even steps of Euler's instead. `latents` [B, C, H, W] is the noise to start from.
        `output_type` "pt" gives tensors as sampled. Guidance, or a model that reads one, leads away from
        `negative_prompt` in the empty one's place.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        text = self._read(["", *prompts])  # once for all steps, the empty prompt first
        text = [[part[1:] for part in text], [part[[0] * len(prompts)] for part in text]]
        if negative_prompt is not None:
            text[1] = [part[[0] * len(prompts)] for part in self._read([negative_prompt])]
        body = self.transformer or self.unet
        settings, fold = body.config.get("each", body.config), self.config.fold
        shape = (len(prompts), settings["in_channels"] // fold**2, *(side * fold for side in sides(settings)))
        device, dtype = body.device, body.dtype
        x = torch.randn(shape, generator=generator, dtype=dtype) if latents is None else latents
        x = x.to(device, dtype)
        scale = self.config.sampler["guidance"] if guidance_scale is None else guidance_scale
        steps, values = self.config.steps, [x]
        if num_inference_steps is not None:
            steps = euler([1 - i / num_inference_steps for i in range(num_inference_steps)] + [0.0])
        for name, *given in steps:
            if name == "beside":
                told = [values[place] for place in (given[0], *given[3:])]
                x = self._velocity(torch.cat(told, dim=1), given[1:2], text, given[2], of=self.companion)
                x = x[:, : shape[1]]
            elif name in ("velocity", "plain"):
                x = self._velocity(values[given[0]], given[1:], text, 1 if name == "plain" else scale)
            elif name == "varied":
                x = self._velocity(values[given[0]], given[2:], text, scale, values[given[1]])
            elif name == "noise":
                x = torch.randn(shape, generator=generator, dtype=dtype).to(device)
            elif name in _COMPUTED:
                x = _COMPUTED[name](values, *given)
            else:
                known = ", ".join(("velocity", "plain", "varied", "beside", "noise", *_COMPUTED))
                raise ValueError(f"step {name!r}: this pipeline knows {known}")
            values.append(x)
        return ImagePipelineOutput(images=x if output_type == "pt" else [self._picture(image) for image in x])

    def _velocity(self, x, times, text, scale, z=None, of=None):
        asked, others = text
        if scale == 1:
            return self._call(x, times, *asked, others[0], z=z, of=of)
        twice = None if z is None else torch.cat([z, z])
        words = [torch.cat(parts) for parts in zip(asked, others, strict=True)]
        both = self._call(torch.cat([x, x]), times, *words, torch.cat([others[0]] * 2), z=twice, of=of)
        with_prompt, without = both.chunk(2)
        return without + scale * (with_prompt - without)

    def _call(self, x, times, hidden, pooled, negatives, *, z, of):
        times = [torch.full((len(x),), t, device=x.device, dtype=x.dtype) for t in times]
        if of is not None:
            return self._asked(of, self.config.companion_fold, x, times[0] * 1000.0, hidden, pooled)
        if self.policy is not None:
            return self.policy.velocity(self._at(x, times[0] * 1000.0, hidden, pooled), x, *times)
        if self.second_time is None and self.latent_variable is None and self.negative_reader is None:
            return self._at(x, times[0] * 1000.0, hidden, pooled)
        layer = self.unet.time_embedding if self.transformer is None else self.transformer.time_text_embed
        with ExitStack() as told:
            if self.negative_reader is not None:
                body = self.transformer or self.unet
                told.enter_context(self.negative_reader.joins(body, layer, hidden.to(x), negatives.to(x)))
            if self.latent_variable is not None:
                told.enter_context(self.latent_variable.joins(layer, torch.zeros_like(x) if z is None else z))
            if self.second_time is not None:
                told.enter_context(self.second_time.joins(layer, times[0] - times[-1]))
            return self._at(x, times[0] * 1000.0, hidden, pooled)

    def _at(self, x, time, hidden, pooled):
        return self._asked(self.transformer or self.unet, self.config.fold, x, time, hidden, pooled)

    def _asked(self, body, fold, x, time, hidden, pooled):
        if body.config.get("kind", type(body).__name__) == "UNet2DConditionModel":
            folded = torch.nn.functional.pixel_unshuffle(x, fold)
            answer = body(folded, time, encoder_hidden_states=hidden.to(x), return_dict=False)[0]
            return torch.nn.functional.pixel_shuffle(answer, fold)
        return body(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=hidden.to(x),
            pooled_projections=pooled.to(x),
            return_dict=False,
        )[0]

    def _read(self, prompts):
        if self.config.prompts is not None:
            pooled = torch.eye(len(self.config.prompts))[[self.config.prompts.index(text) for text in prompts]]
            return pooled[:, None], pooled
        words = [f"{text} {self.tokenizer.eos_token}".strip() for text in prompts]
        ids = self.tokenizer(words, padding="max_length", return_tensors="pt").input_ids
        text = self.text_encoder(input_ids=ids.to(self.text_encoder.device))
        return text.last_hidden_state, text.pooler_output

    def _picture(self, image):
        if self.config.space != "pixels":
            raise ValueError('this model\'s samples are points, no pictures: ask for output_type="pt"')
        levels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().permute(1, 2, 0).numpy()
        return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def sides(settings):
    """Height and width of what a network of these settings is given; one number stands for both."""
    size = settings["sample_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def euler(times):
    """The steps of Euler's rule from times[0] to times[-1]."""
    steps = []
    for now, then in zip(times[:-1], times[1:], strict=True):
        steps += [["velocity", len(steps), now], ["add", len(steps), len(steps) + 1, then - now]]
    return steps
