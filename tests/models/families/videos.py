"""Tiny checkpoints that make videos."""

from typing import Any

from tests.models.families.parts import WIDTH, t5, tokenizer


def wan(*, patched: bool = False) -> Any:
    """`patched` as 2.2's network of 5B parameters."""
    import diffusers as d

    body = d.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=WIDTH, freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )  # fmt: skip
    scheduler = d.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    vae = d.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5], is_residual=patched,
        scale_factor_temporal=2, scale_factor_spatial=4 if patched else 2,
        **({"patch_size": 2, "in_channels": 12, "out_channels": 12} if patched else {}),
    )  # fmt: skip
    return d.WanPipeline(
        transformer=body, scheduler=scheduler, vae=vae, text_encoder=t5(kind="UMT5EncoderModel"),
        tokenizer=tokenizer(), expand_timesteps=patched,
    )  # fmt: skip
