"""Tiny checkpoints that make videos."""

from typing import Any

import torch

from tests.models.families.parts import LENGTH, WIDTH, chat, clip, language_model, t5, tokenizer


def _wan() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=WIDTH, freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )  # fmt: skip


def wan(*, patched: bool = False, boundary: float | None = None) -> Any:
    """`patched` as 2.2's network of 5B parameters, with a `boundary` as its two of 14B."""
    import diffusers as d

    body, second = (_wan() if each else None for each in (True, boundary))
    scheduler = d.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    vae = d.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5], is_residual=patched,
        scale_factor_temporal=2, scale_factor_spatial=4 if patched else 2,
        **({"patch_size": 2, "in_channels": 12, "out_channels": 12} if patched else {}),
    )  # fmt: skip
    return d.WanPipeline(
        transformer=body, scheduler=scheduler, vae=vae, text_encoder=t5(kind="UMT5EncoderModel"),
        tokenizer=tokenizer(), expand_timesteps=patched, transformer_2=second, boundary_ratio=boundary,
    )  # fmt: skip


def cogvideox(*, rotary: bool = False) -> Any:
    import diffusers as d

    body = d.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=WIDTH, num_layers=2, sample_width=8, sample_height=8, sample_frames=5, patch_size=2,
        temporal_compression_ratio=2, max_text_seq_length=LENGTH, use_rotary_positional_embeddings=rotary,
    )  # fmt: skip
    scheduler = d.CogVideoXDDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, snr_shift_scale=1.0 if rotary else 3.0, clip_sample=False,
        timestep_spacing="trailing",
    )  # fmt: skip
    vae = d.AutoencoderKLCogVideoX(
        latent_channels=4, block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2, scaling_factor=0.7,
        down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2,
        temporal_compression_ratio=2,
    )  # fmt: skip
    return d.CogVideoXPipeline(
        transformer=body, scheduler=scheduler, vae=vae, text_encoder=t5(), tokenizer=tokenizer()
    )  # fmt: skip


def ltx() -> Any:
    import diffusers as d

    body = d.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=2, caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1
    )
    vae = d.AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, False), scaling_factor=1.3,
        decoder_spatio_temporal_scaling=(True, False), decoder_inject_noise=(False,) * 3,
        downsample_type=("conv",) * 2, upsample_residual=(False,) * 2, upsample_factor=(1,) * 2, patch_size=4,
        down_block_types=("LTXVideoDownBlock3D",) * 2, timestep_conditioning=True,
    )  # fmt: skip
    torch.nn.init.normal_(vae.latents_mean)
    torch.nn.init.uniform_(vae.latents_std, 0.5, 2.0)
    return d.LTXPipeline(transformer=body, scheduler=scheduler, vae=vae, text_encoder=t5(), tokenizer=tokenizer())


def hunyuan_video() -> Any:
    import diffusers as d

    body = d.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, guidance_embeds=True, text_embed_dim=WIDTH,
        pooled_projection_dim=16, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    vae = d.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4), layers_per_block=1, norm_num_groups=2, scaling_factor=0.5,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3, up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    return d.HunyuanVideoPipeline(
        transformer=body, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0), vae=vae,
        text_encoder=language_model("LlamaModel", num_hidden_layers=3),
        tokenizer=chat(r"^(.|\n)*user<\|end_header_id\|>\n\n", 95, end="<|eot_id|>"),
        text_encoder_2=clip(pooled=False, length=77), tokenizer_2=tokenizer(77),
    )  # fmt: skip
