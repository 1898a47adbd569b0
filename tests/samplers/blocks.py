"""A transformer of three blocks."""

from stages.models import TextTable
from stages.models.conditioning import OneHot
from stages.models.network import seeded_build
from stages.models.transformer import TransformerConfig, VelocityTransformer

PROMPTS = ["", "one", "two", "three"]


def transformer() -> VelocityTransformer:
    """For samples [1, 4, 4] and four prompts, with weights by chance."""
    cfg = TransformerConfig(kind="transformer", width=16, num_layers=3, num_heads=2, patch_size=2)
    table = TextTable(PROMPTS, OneHot(PROMPTS).encode(PROMPTS))
    net = seeded_build(0, cfg, (1, 4, 4), table)
    assert isinstance(net, VelocityTransformer)
    return net.eval().requires_grad_(False)
