"""What a method says of itself: the networks it needs, one pure loss for each phase, and how its student is sampled.

A method is a module. The loop owns optimisers, averages, clipping, precision, checkpoints and counting; a method
owns mathematics. Networks answer it in float32 or wider, whatever they compute in, and each call is counted
(`networks.py`), so that a loss says nothing of either.

Kinds of batch, by `NEEDS`, or by `needs(cfg)` where knobs decide it (every batch also holds `cond` [B, 1], rows of the
text table):

- "pairs": noise [B, ...] and x0, the sample a model makes of it
- "trajectories": also states [B, K + 1, ...] of the teacher's trajectory from noise to x0 at times [B, K + 1], the
  nodes of the student's sampler. Those of a schedule called `BEST` are what a search found for K steps
- "images": x0, real data; a teacher of noisy ones also has the level [B] of the noise on each
- "prompts": for a policy also `group` int64 [B], rising: samples of one group are compared with each other
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Generator, Tensor

from stages.core.noising import Noising
from stages.core.spec import SamplerSpec
from stages.core.types import Batch, World

Needs = Literal["pairs", "trajectories", "images", "prompts"]
BEST = "best"
"""Names the schedule of a student whose steps were searched for; the student that is made carries their times."""
Loss = tuple[Tensor, Mapping[str, Tensor | float]]
"""A scalar to descend, and what to report."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with an optimiser (AdamW)."""

    start: str
    """A builder of `roles.py`: "init" and "teacher" copy the arm's initial model or its teacher, "head" is a
    fresh discriminator on the teacher's features, "pair" one on those of two inputs side by side."""
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    second_time: bool = False
    """Whether it answers averages, from t down to `until`; a network of one time is given the second. What follows it
    has one too."""
    policy: Mapping[str, Any] | None = None
    """Of `stages/models/policy.py`, by its name with its knobs: what makes averages, without another call, of what it
    answers as `fields`. A network that answers a velocity is made to answer these."""

    pool: int | None = None
    """Of a head: how many there are of it, of which a call asks one by its number, [] int64, behind the features. They
    begin apart. None is one head, asked without a number."""

    latent_variable: bool = False
    """Whether it is told noise `z` like a sample; a network that is told none is given the variable."""

    negative_reader: bool = False
    """Whether it reads a prompt to lead away from, rows `negative` of the text table; one that reads none is given what
    does, and that alone learns. What follows it has one too."""

    companion: Any = None
    """Size, of `stages/models/network.py`, of a new network that it carries and that alone learns: `beside` asks that
    one, which is told a second sample. What follows it has one too."""

    @property
    def averages(self) -> str | None:
        """What makes it a network that answers averages too, for messages."""
        if self.policy is not None:
            return "that answers a policy"
        return "of two times" if self.second_time else None

    @property
    def part(self) -> str | None:
        """What of the network alone learns, by its name; None for all of it."""
        return "companion" if self.companion else "negative_reader" if self.negative_reader else None

    @property
    def told_more(self) -> str | None:
        """What makes it more than one network of one time, one velocity and no noise, for messages."""
        if self.companion:
            return "that carries another"
        if self.negative_reader:
            return "that reads negative prompts"
        return "that is told noise" if self.latent_variable else self.averages


@dataclass(frozen=True, kw_only=True)
class Follower:
    """A moving average that follows network `of` after each of its updates; no gradient reaches it."""

    of: str
    decay: Callable[[int], float]
    """The average's weight on its own past, given the number of updates of `of` so far (1 at the first)."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The arm's initial model, which never changes."""


Role = Trained | Follower | Frozen


@dataclass(frozen=True, kw_only=True)
class Blend:
    """`into` <- (1 - weight) `into` + weight `of`, weight by weight: a pull towards another role beside any loss."""

    of: str
    into: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """Of the pool of heads `of`, a random `share` begins anew, weights and optimiser alike, each by itself."""

    of: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One kind of update: `repeats` optimiser steps on `loss`, in every `every`-th iteration."""

    name: str
    trains: tuple[str, ...]
    loss: Callable[[World, Batch, Generator, Any], Loss]
    every: int = 1
    repeats: int = 1
    start: float = 0.0
    """Share of the budget that passes before its first update."""
    stop: float = 1.0
    """Share of the budget after which there are no more."""
    blends: tuple[Blend, ...] = ()
    """Once an iteration, after its updates."""
    renewals: tuple[Renewal, ...] = ()
    """Likewise, after those."""
    draws: bool = True
    """Whether the loss draws random numbers. False says that the batch alone decides it."""


class Method(Protocol):
    """The interface of every module in `stages/distillers` and `stages/policies`.

    A policy that descends the reward's own gradient, by the images, says so with `DIFFERENTIATES = True`; one
    that distils a many-step teacher beside the reward, so that what it starts from may be a student, with
    `DISTILS = True`. A method that asks for prompts which its batch need not have names their texts in a
    `prompts(cfg)`; the rows of the text table that stand for them come as `world.rows`. A method whose `prepare` goes
    on from what it left in the iteration before names that, among what it gives, as `CARRIES`; it comes back as
    `world.carried`. One for samples that are tokens says which tokens, as `TOKENS`. A distiller that starts from a
    student says so with a `goes_on(cfg)`, and a method whose losses take derivatives by weights, or ask networks that
    they draw, with a `takes_whole(cfg)`. What is drawn and decides how often networks are called goes through
    `world.agreed`.
    """

    Config: type[Any]

    def roles(self, cfg: Any) -> Mapping[str, Role]:
        """The networks by name; "student" is among them. "teacher", frozen, is always there and not named here."""
        ...

    def prepare(self, world: World, batch: Batch, rng: Generator, cfg: Any) -> Batch:
        """Without gradient, once an iteration: what its phases share, such as a roll-out and its rewards."""
        ...

    def phases(self, cfg: Any) -> tuple[Phase, ...]:
        """In the order in which they run. A phase that ends an iteration sees what earlier ones changed."""
        ...

    def sampler(self, cfg: Any) -> SamplerSpec:
        """How the trained student is sampled."""
        ...


def needs_of(method: Method, cfg: Any) -> Needs:
    """What the method trains on, by its settings."""
    return method.needs(cfg) if hasattr(method, "needs") else method.NEEDS  # type: ignore[attr-defined]


def seen_at(method: Method, cfg: Any) -> SamplerSpec:
    """Steps at whose nodes a method of trajectories sees them: its sampler's, unless it says which."""
    return method.seen_at(cfg) if hasattr(method, "seen_at") else method.sampler(cfg)  # type: ignore[attr-defined]


def prompts_of(method: Method, cfg: Any) -> tuple[str, ...]:
    """The texts, by its settings, of prompts that it asks for whatever is in a batch."""
    return tuple(method.prompts(cfg)) if hasattr(method, "prompts") else ()  # type: ignore[attr-defined]


def differentiates(method: Method) -> bool:
    """Whether the method takes the reward's gradient, which only some rewards have, and only where training runs."""
    return getattr(method, "DIFFERENTIATES", False)


def distils(method: Method) -> bool:
    """Whether the policy looks at a teacher that is not the model it starts from."""
    return getattr(method, "DISTILS", False)


def carries(method: Method) -> tuple[str, ...]:
    """What of a prepared batch the next one is prepared from."""
    return getattr(method, "CARRIES", ())


def takes_whole(method: Method, cfg: Any) -> bool:
    """Whether workers need its networks whole: for derivatives by weights, or where each slice asks another network."""
    return hasattr(method, "takes_whole") and method.takes_whole(cfg)  # type: ignore[attr-defined]


def goes_on(method: Method, cfg: Any) -> bool:
    """Whether the method goes on from what a student has learnt, so that another model is no beginning for it."""
    return hasattr(method, "goes_on") and method.goes_on(cfg)  # type: ignore[attr-defined]


def noising_of(method: Method) -> Noising | None:
    """What noise does to the samples that the method is for, where they are tokens."""
    return getattr(method, "TOKENS", None)


def unprepared(_world: World, batch: Batch, _rng: Generator, _cfg: Any) -> Batch:
    """For methods whose phases share nothing but the batch: `prepare = unprepared`."""
    return batch


def only(
    loss: Callable[[World, Batch, Generator, Any], Loss], name: str = "student"
) -> Callable[[Any], tuple[Phase, ...]]:
    """For methods that train the student on one loss: `phases = only(loss)`; what it reports is under `name`."""
    return lambda _cfg: (Phase(name=name, trains=("student",), loss=loss),)


def alone(cfg: Any) -> Mapping[str, Role]:
    """For teachers, which train one network at the rate `lr`: `roles = alone`."""
    return {"student": Trained(start="init", lr=cfg.lr)}
