"""Ranges that several configurations share, as types that pydantic checks."""

from typing import Annotated

from pydantic import Field

Unit = Annotated[float, Field(ge=0, le=1)]
"""A time or a share, both ends included."""

Decay = Annotated[float, Field(ge=0, lt=1)]
"""A moving average's weight on its own past; 0 copies, and 1 would never move."""
