"""Laws of the time t at which a training looks, in [0, 1] from data to noise."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.rng import normal_like, uniform


@config
class Uniform:
    """All alike."""

    name: Literal["uniform"]

    def drawn(self, like: Tensor, rng: Generator) -> Tensor:
        """[B], for samples like these [B, ...]."""
        return uniform(len(like), rng, like)


@config
class LogitNormal:
    """The sigmoid of a normal number: at mean 0 it dwells in the middle, where most is learnt (Esser et al. 2024).

    Mean 3 looks at noise, where a style is decided (Choi et al. 2024, arXiv:2411.14793): its law of log(alpha^2 /
    sigma^2), N(-6, 2^2), is N(3, 1) here, of log(sigma / alpha). A median of 0.953, and 0.79 of the times above 0.9.
    """

    name: Literal["logit_normal"]
    mean: Annotated[float, Field(ge=-20, le=20, allow_inf_nan=False)]
    """Of logit(t) = log(t / (1 - t)) = log(sigma / alpha)."""
    std: Annotated[float, Field(gt=0, le=20, allow_inf_nan=False)]

    def drawn(self, like: Tensor, rng: Generator) -> Tensor:
        """[B], for samples like these [B, ...]."""
        return (self.mean + self.std * normal_like(like.flatten(1)[:, 0], rng)).sigmoid()


Times = Annotated[Uniform | LogitNormal, Field(discriminator="name")]
