"""Tiny random checkpoints of every family, saved as diffusers saves its own."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from stages.core.rng import seeded
from stages.models.checkpoint import Checkpoint, Options
from tests.models.families.parts import (
    LENGTH,
    WIDTH,
    chat,
    clip,
    conversing,
    language_model,
    mistral,
    qwen_vl,
    t5,
    tokenizer,
    vae,
)  # fmt: skip
from tests.models.families.videos import cogvideox, hunyuan_video, ltx, wan

PROMPTS = ["a red disc", "a thin upright 3", "a bold left 7"]


def sd3() -> Any:
    import diffusers as d

    body = d.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return d.StableDiffusion3Pipeline(
        transformer=body, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.1),
        text_encoder=clip(), tokenizer=tokenizer(), text_encoder_2=clip(), tokenizer_2=tokenizer(),
        text_encoder_3=t5(), tokenizer_3=tokenizer(),
    )  # fmt: skip


def unet(**words: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        **words,
    )  # fmt: skip


def sd(prediction: str = "epsilon") -> Any:
    import diffusers as d

    body = unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=2,
    )  # fmt: skip
    scheduler = d.PNDMScheduler(**BETAS, prediction_type=prediction, steps_offset=1, skip_prk_steps=True)
    return d.StableDiffusionPipeline(
        unet=body, scheduler=scheduler, vae=vae(), text_encoder=clip(width=WIDTH, pooled=False), tokenizer=tokenizer(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> Any:
    import diffusers as d

    body = unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), use_linear_projection=True, cross_attention_dim=WIDTH,
        attention_head_dim=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )  # fmt: skip
    return d.StableDiffusionXLPipeline(
        unet=body, scheduler=d.EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"), vae=vae(),
        text_encoder=clip(pooled=False), tokenizer=tokenizer(), text_encoder_2=clip(), tokenizer_2=tokenizer(),
        add_watermarker=False,
    )  # fmt: skip


def pixart(kind: str = "PixArtAlphaPipeline") -> Any:
    import diffusers as d

    told = kind == "PixArtAlphaPipeline"  # the size, as the checkpoint for 1024 pixels is
    body = d.PixArtTransformer2DModel(
        sample_size=128 if told else 8, num_layers=2, patch_size=2, num_attention_heads=2,
        attention_head_dim=24 if told else 8, in_channels=4, out_channels=8, cross_attention_dim=48 if told else 16,
        caption_channels=WIDTH, norm_type="ada_norm_single", use_additional_conditions=told, interpolation_scale=1,
    )  # fmt: skip
    scheduler = d.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return getattr(d, kind)(
        transformer=body, scheduler=scheduler, vae=vae(), text_encoder=t5(), tokenizer=tokenizer()
    )  # fmt: skip


def flux(*, guided: bool = True) -> Any:
    import diffusers as d

    body = d.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=16, guidance_embeds=guided, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    shift = {"use_dynamic_shifting": True, "shift": 3.0} if guided else {"shift": 1.0}
    return d.FluxPipeline(
        transformer=body, scheduler=d.FlowMatchEulerDiscreteScheduler(**shift), vae=vae(shift_factor=0.1),
        text_encoder=clip(pooled=False), tokenizer=tokenizer(), text_encoder_2=t5(), tokenizer_2=tokenizer(),
    )  # fmt: skip


def qwen() -> Any:
    import diffusers as d

    body = d.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    return d.QwenImagePipeline(
        transformer=body, scheduler=scheduler, text_encoder=qwen_vl(),
        vae=d.AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5],
        ),
        tokenizer=chat(r"^(.|\n)*user\n", 34, end="<|im_end|>\n<|im_start|>assistant\n"),
    )  # fmt: skip


def sana() -> Any:
    import diffusers as d

    body = d.SanaTransformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, out_channels=8, num_layers=2, num_attention_heads=2,
        attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=WIDTH, mlp_ratio=2.5, timestep_scale=0.5,
    )  # fmt: skip
    scheduler = d.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    vae = d.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_out_channels=(4, 4, 8),
        decoder_block_out_channels=(4, 4, 8), encoder_layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)), decoder_qkv_multiscales=((), (), (5,)), scaling_factor=0.4,
        encoder_block_types=["ResBlock", "ResBlock", "EfficientViTBlock"],
        decoder_block_types=["ResBlock", "ResBlock", "EfficientViTBlock"],
    )  # fmt: skip
    gemma = language_model("Gemma2Model", query_pre_attn_scalar=16)
    return d.SanaPipeline(
        transformer=body, scheduler=scheduler, vae=vae, text_encoder=gemma, tokenizer=tokenizer(512)
    )  # fmt: skip


def z_image() -> Any:
    import diffusers as d

    body = d.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[4, 6, 6], axes_lens=[64, 16, 16],
    )  # fmt: skip
    return d.ZImagePipeline(
        transformer=body, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.1),
        text_encoder=language_model("Qwen3Model"), tokenizer=conversing(),
    )  # fmt: skip


def flux2(kind: str = "Flux2Pipeline") -> Any:
    import diffusers as d

    dev = kind == "Flux2Pipeline"
    body = d.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=dev,
    )  # fmt: skip
    vae = d.AutoencoderKLFlux2(
        latent_channels=4, block_out_channels=(4, 4), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    deep = {"hidden_size": 16, "num_hidden_layers": 30, "head_dim": 8}
    return getattr(d, kind)(
        transformer=body, scheduler=d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae,
        text_encoder=mistral(**deep) if dev else language_model("Qwen3ForCausalLM", **deep), tokenizer=conversing(),
    )  # fmt: skip


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BUILDERS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "sd15": sd,
        "sd2": partial(sd, "v_prediction"),
        "sdxl": sdxl,
        "pixart_alpha": pixart,
        "pixart_sigma": partial(pixart, "PixArtSigmaPipeline"),
        "sd3": sd3,
        "flux_dev": flux,
        "flux_schnell": partial(flux, guided=False),
        "qwen_image": qwen,
        "sana": sana,
        "z_image": z_image,
        "flux2_dev": flux2,
        "flux2_klein": partial(flux2, "Flux2KleinPipeline"),
        "wan": wan,
        "wan22_5b": partial(wan, patched=True),
        "wan22_14b": partial(wan, boundary=0.8),
        "cogvideox": cogvideox,
        "cogvideox_5b": partial(cogvideox, rotary=True),
        "ltx": ltx,
        "hunyuan_video": hunyuan_video,
    }
)


def options(name: str, **changes: Any) -> Options:
    """As a tiny checkpoint is read."""
    told: dict[str, Any] = {
        "variant": None, "precision": "float32", "height": 16, "width": 16, "frames": None, "above_t_max": "clamp",
        "embedded_guidance": None, "text_length": LENGTH, "negative_prompt": None, "slice_size": 2,
    }  # fmt: skip
    return Options(**told | OPTIONS.get(name, {}) | changes)


OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sd15": {"text_length": None},
        "sd2": {"text_length": None},
        "sdxl": {"text_length": None},
        "flux_dev": {"embedded_guidance": 3.0},
        "sana": {"height": 32, "width": 32},
        "z_image": {"text_length": 12},
        "flux2_dev": {"embedded_guidance": 3.0, "text_length": 12},
        "flux2_klein": {"text_length": 12},
        "wan": {"frames": 5},
        "wan22_14b": {"frames": 5},
        "wan22_5b": {"frames": 5, "height": 32, "width": 32},
        "cogvideox": {"frames": 5},
        "cogvideox_5b": {"frames": 5},
        "ltx": {"frames": 5, "height": 32, "width": 32},
        "hunyuan_video": {"frames": 9, "embedded_guidance": 3.0},
    }
)
"""What is other than in the table above."""


TAIL: Mapping[str, int] = MappingProxyType(
    {"qwen_image": 2, "z_image": 1, "flux2_dev": 1, "flux2_klein": 1, "hunyuan_video": 1}
)
"""Tokens behind a prompt that are lost before it, where a template puts some there."""


def saved(name: str, folder: Path) -> Path:
    """A checkpoint with weights that matter, in `folder`; the same every time."""
    with seeded(0):
        pipe = BUILDERS[name]()
        for part in (getattr(pipe, each, None) for each in ("transformer", "transformer_2", "unet")):
            for parameter in part.parameters() if part else ():
                if not parameter.any():  # last layers begin at zero
                    torch.nn.init.normal_(parameter, std=0.2)
    pipe.save_pretrained(folder)
    return folder


def checkpoint(name: str, folder: Path, **changes: Any) -> Checkpoint:
    """What is read of it."""
    return Checkpoint(folder, options(name, **changes), str(folder))
