"""Samplers that are fitted to a model: what is measured or searched for becomes knobs, and the sampler is whole.

A fit is its knobs and `fitted(model)`, the sampler that came of it, as parameters state one. The `reflow` stage makes
those that `reflow.samplers` names; a new one is a new file and one line here. README.md above has the table.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Protocol, runtime_checkable

import pydantic

from stages.core.config import check, members
from stages.samplers.fits.boundary_condition import FitBoundaryCondition
from stages.samplers.fits.dc_solver import FitDCSolver
from stages.samplers.fits.dpm_solver_v3 import FitDPMSolverV3
from stages.samplers.fits.model import Fitting
from stages.samplers.fits.quantised import FitQuantised
from stages.samplers.fits.search import FitSearch
from stages.samplers.fits.teleport import FitTeleport
from stages.samplers.fits.time_tuner import FitTimeTuner
from stages.samplers.fits.usf import FitUSF
from stages.samplers.spec import Sampler

AnyFit = Annotated[
    FitDPMSolverV3
    | FitDCSolver
    | FitTimeTuner
    | FitQuantised
    | FitUSF
    | FitTeleport
    | FitSearch
    | FitBoundaryCondition,
    pydantic.Field(discriminator="name"),
]
FITS = MappingProxyType(members(AnyFit))
"""By name."""


def fit_of(choice: Mapping[str, Any]) -> "Fit":
    """The fit that a name and its knobs choose; ValueError where there is no such fit or knob."""
    return check(AnyFit, choice, "fit")  # type: ignore[arg-type]


class Fit(Protocol):
    """The interface of every row: its knobs, and what comes of them."""

    @property
    def name(self) -> str:
        """In the table."""
        ...

    @property
    def num_samples(self) -> int:
        """Of the model, that it looks at."""
        ...

    def fitted(self, model: Fitting, /) -> Sampler:
        """The sampler."""
        ...


@runtime_checkable
class OfPictures(Protocol):
    """A fit to a teacher that is told pictures: what it looks at are those of the data set, with their prompts."""

    def suits(self, shape: tuple[int, ...], /) -> None:
        """ValueError where it is not for samples of `shape`."""
        ...
