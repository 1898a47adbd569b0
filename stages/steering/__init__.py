"""Steering: search at inference, with a reward, on top of any sampler. README.md is the table to choose from.

A steering is a file and a line here: its knobs, and a search over a `Task`, which counts what it asks of the network
and of the reward. It belongs to no model: a folder has no reward.
"""

from types import MappingProxyType
from typing import Annotated

import pydantic

from stages.core.config import config, members
from stages.samplers.spec import Sampler
from stages.steering.best_of_n import BestOfN
from stages.steering.boost import Boost
from stages.steering.driftlite import DriftLite
from stages.steering.dts import DTS
from stages.steering.fk import FK
from stages.steering.fkc import FKC
from stages.steering.psi import Psi
from stages.steering.rare import Minority, SelfGuided
from stages.steering.rbf import RBF
from stages.steering.steady import Steady
from stages.steering.svdd import SVDD

AnySteering = Annotated[
    BestOfN | FK | SVDD | RBF | FKC | DriftLite | DTS | Psi | Boost | Minority | SelfGuided | Steady,
    pydantic.Field(discriminator="name"),
]
STEERINGS = MappingProxyType(members(AnySteering))
"""By name."""


@config
class Asked:
    """A section that names a steering."""

    steering: AnySteering


@config
class Steered:
    """A model, how it is sampled, and what steers that."""

    of: str
    """The model: an input of `evaluate`, such as teacher, distill/tdm1 or rl/dgpo."""
    sampler: Sampler | None
    """null: the model's own."""
    steering: AnySteering

    def __post_init__(self) -> None:
        if self.sampler:
            self.sampler.names_all()
