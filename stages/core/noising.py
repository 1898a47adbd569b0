"""What noise does to samples that are tokens."""

from typing import Literal

Noising = Literal["masked", "uniform"]
"""It takes them away, or puts others in their place."""
