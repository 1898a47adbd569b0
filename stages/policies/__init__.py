"""Reinforcement learning methods by name. A new method is a new file and one line here."""

from types import MappingProxyType

from stages.policies import (
    awm,
    crd,
    dgpo,
    diffusion_dpo,
    direct,
    dmdr,
    flow_grpo,
    g2rpo,
    implicit_diffusion,
    nft,
    pso,
    reward_instruct,
    spo,
    tdm_r1,
)

POLICIES = MappingProxyType(
    {
        "flow_grpo": flow_grpo,
        "dgpo": dgpo,
        "nft": nft,
        "awm": awm,
        "diffusion_dpo": diffusion_dpo,
        "crd": crd,
        "g2rpo": g2rpo,
        "pso": pso,
        "spo": spo,
        "direct": direct,
        "implicit_diffusion": implicit_diffusion,
        "reward_instruct": reward_instruct,
        "tdm_r1": tdm_r1,
        "dmdr": dmdr,
    }
)
