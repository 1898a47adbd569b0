"""The pipeline that every exported model folder carries, so that stock diffusers loads it without fewstep:

    DiffusionPipeline.from_pretrained("data/distill/tdm1/model", trust_remote_code=True)("a bold left-slanted 7").images

This file is copied into the folder as it is, hence it imports torch and diffusers alone.
"""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image


class FewStepPipeline(DiffusionPipeline):
    """A flow model with the sampler it was trained for: time grid, step rule and guidance."""

    _optional_components = ["transformer", "unet", "text_encoder", "tokenizer"]  # noqa: RUF012 - a list is what diffusers reads

    def __init__(
        self,
        transformer=None,
        unet=None,
        *,
        text_encoder=None,
        tokenizer=None,
        sampler=None,
        prompts=None,
        space="pixels",
        fold=1,
    ):
        """`prompts` is the list that a model without a text encoder knows, by place; the first is the empty one.

        `fold` is the side of the squares of pixels that are channels to a UNet.
        """
        super().__init__()
        sampler = sampler or {"rule": "euler", "times": [1.0, 0.0], "guidance": 1.0}
        if sampler["rule"] not in ("euler", "renoise"):
            raise ValueError(f"rule {sampler['rule']!r}: this pipeline steps by 'euler' or 'renoise'")
        self.register_modules(transformer=transformer, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(sampler=sampler, prompts=prompts, space=space, fold=fold)

    @torch.no_grad()
    def __call__(
        self, prompt, num_inference_steps=None, guidance_scale=None, generator=None, latents=None, output_type="pil"
    ):
        """Images for `prompt` (a string or a list of them).

        `num_inference_steps` and `guidance_scale` are the model's own unless given: a few-step student is made for
        its grid. `latents` [B, C, H, W] is the noise to start from. `output_type` "pt" gives tensors as sampled.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        body = self.transformer or self.unet
        settings, fold = body.config, self.config.fold
        side = settings.sample_size * fold
        shape = (len(prompts), settings.in_channels // fold**2, side, side)
        device, dtype = body.device, body.dtype
        x = torch.randn(shape, generator=generator, dtype=dtype) if latents is None else latents
        x = x.to(device, dtype)
        sampler = self.config.sampler
        times = sampler["times"]
        if num_inference_steps is not None:
            times = [1 - i / num_inference_steps for i in range(num_inference_steps)] + [0.0]
        scale = sampler["guidance"] if guidance_scale is None else guidance_scale
        for now, then in zip(times[:-1], times[1:], strict=True):
            v = self._velocity(x, now, prompts, scale)
            if sampler["rule"] == "euler" or then == 0.0:
                x = x + (then - now) * v
            else:
                noise = torch.randn(shape, generator=generator, dtype=dtype).to(device)
                x = (1 - then) * (x - now * v) + then * noise
        return ImagePipelineOutput(images=x if output_type == "pt" else [self._picture(image) for image in x])

    def _velocity(self, x, t, prompts, scale):
        with_prompt = self._call(x, t, prompts)
        if scale == 1:
            return with_prompt
        without = self._call(x, t, [""] * len(prompts))
        return without + scale * (with_prompt - without)

    def _call(self, x, t, prompts):
        hidden, pooled = self._read(prompts)
        time = torch.full((len(x),), t * 1000.0, device=x.device, dtype=x.dtype)
        if self.unet is not None:
            folded = torch.nn.functional.pixel_unshuffle(x, self.config.fold)
            answer = self.unet(folded, time, encoder_hidden_states=hidden.to(x), return_dict=False)[0]
            return torch.nn.functional.pixel_shuffle(answer, self.config.fold)
        return self.transformer(
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
