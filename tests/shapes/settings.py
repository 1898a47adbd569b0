"""Scenes as the experiments draw them: plain ones for a small network, and hard ones."""

from stages.shapes.scenes import Scenes

EASY = Scenes(
    size=32, num_shapes=4, num_colors=5, max_count=4, grid=2, min_radius=0.6, max_radius=0.75, jitter=0.5,
    rotation=0.08, shade=0.3, tint=0.2, background=0.3, slope=0.1, noise=0.02,
)  # fmt: skip
HARD = Scenes(
    size=32, num_shapes=6, num_colors=8, max_count=4, grid=2, min_radius=0.5, max_radius=0.75, jitter=1.0,
    rotation=1.0, shade=0.35, tint=0.25, background=0.8, slope=0.4, noise=0.04,
)  # fmt: skip
