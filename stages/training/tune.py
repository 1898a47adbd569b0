"""Which weights of a network a training changes, as parameters state it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from stages.core.config import config
from stages.core.noising import Noising
from stages.core.ranges import Positive, Size
from stages.io.expected import Expected
from stages.models import adapters
from stages.models.experts import Experts
from stages.models.pretrained import Pretrained
from stages.training.method import Method, takes_whole
from stages.training.roles import FULL, Adapters, Parted, Tuning


@config
class Whole:
    """All of them."""

    kind: Literal["full"]


@config
class Lora:
    """Those of low-rank adapters beside the frozen network, which roles share (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"]
    rank: Size
    alpha: Positive
    """What an adapter adds is multiplied by alpha / rank."""
    targets: Literal["default"] | tuple[str, ...]
    """Layers that get one, by the end of their names; by default those of the network's family."""
    checkpointing: bool
    """Whether the backward pass computes what the network holds inside again, rather than keep it in memory."""
    compile: bool
    """Whether the network's repeated blocks are compiled, which takes minutes once and pays in long trainings."""


@config
class Sharded:
    """All of them, of each of which every worker of `compute.workers` holds a part; one worker alone holds them whole.

    Sums of gradients are taken in another order than by whole copies, so what comes of it is not bitwise the same for
    any number of workers.
    """

    kind: Literal["sharded"]
    checkpointing: bool
    """Whether the backward pass computes what the network holds inside again; for checkpoints."""


AnyTune = Whole | Lora | Sharded
Tune = Annotated[AnyTune, Field(discriminator="kind")]


_OTHERS: Mapping[Noising | None, str] = MappingProxyType(
    {
        "masked": "its teacher is of tokens that noise masks (kind=masked), which has no flow that a student could "
        "follow; take another one, such as teacher=flow_matching",
        "uniform": "its teacher is of tokens that noise replaces (kind=uniform_state), which has no flow; take the "
        "method duo, or another teacher, such as teacher=flow_matching",
        None: "the method is for tokens that noise replaces; take teacher=uniform_state, or another method",
    }
)
"""Why a method of flows is not for samples of a kind; None: why one of tokens is not for others."""


def tuning(tune: AnyTune, seed: int) -> Tuning:
    """What a training does about its networks' weights; fresh adapters come of `seed`."""
    match tune:
        case Whole():
            return FULL
        case Sharded():
            return Parted(_recompute) if tune.checkpointing else Parted()
        case Lora():
            return Adapters(adapters.is_adapter, _Ready(tune, seed))


def fits(tune: AnyTune, where: str, given: Expected, tokens: Noising | None = None) -> None:
    """ValueError unless training can start from the model `given`, tuned so, by a method for such samples."""
    if given.fault:
        raise ValueError(f"{where}: {given.fault}")
    if given.tokens != tokens:
        raise ValueError(f"{where}: {_OTHERS[None if tokens else given.tokens]}")
    if isinstance(tune, Whole) or given.model is None:
        return
    if isinstance(tune, Sharded):
        return _can_be_parted(tune, where, given)
    if given.model != "checkpoint":
        raise ValueError(
            f"{where}.tune.kind=lora: adapters are for checkpoints, this model is {given.model}; set it to full"
        )
    if given.rank not in (None, tune.rank):
        raise ValueError(
            f"{where}.tune.rank={tune.rank}: the model it starts from has adapters of rank {given.rank}; name that"
        )


def learns(tune: AnyTune, where: str, method: Method, settings: Any, num_students: int = 1) -> None:
    """ValueError unless the method can train networks that are tuned so."""
    if not isinstance(tune, Sharded):
        return
    if takes_whole(method, settings):
        raise ValueError(
            f"{where}.tune.kind=sharded: {settings.method}, set so, needs its networks whole on every worker; set it "
            "to full or lora"
        )
    if num_students > 1:
        raise ValueError(
            f"{where}.tune.kind=sharded: workers must call networks alike, and each of num_students={num_students} is "
            "asked for its own prompts; set it to full or lora"
        )


def _can_be_parted(tune: Sharded, where: str, given: Expected) -> None:
    if tune.checkpointing and given.model != "checkpoint":
        raise ValueError(
            f"{where}.tune.checkpointing=true: it is for checkpoints, this model is {given.model}; set it to false"
        )
    if given.sketch and any(_asks_some(each) for each in given.sketch.build().modules()):
        raise ValueError(
            f"{where}.tune.kind=sharded: this model is several networks, each asked for some samples, and workers that "
            "hold parts must call them alike; set it to full or lora"
        )


def _asks_some(module: nn.Module) -> bool:
    """Whether it is several networks."""
    from stages.models.several import Several  # which imports diffusers

    return isinstance(module, Experts | Several)


def begins(tune: AnyTune, where: str, init: Expected, tokens: Noising | None = None) -> None:
    """ValueError unless a student can begin as the model `init`, tuned so: no weights are saved beside adapters."""
    fits(tune, where, init, tokens)
    if not isinstance(tune, Lora) and init.rank is not None:
        raise ValueError(
            f"{where}.tune.kind={tune.kind}: the model it starts from has adapters; set it to lora, of rank {init.rank}"
        )


@dataclass(frozen=True)
class _Ready:
    """Makes a twin ready to be trained: gives it adapters unless it has some, with which training goes on."""

    tune: Lora
    seed: int

    def __call__(self, net: nn.Module) -> None:
        """ValueError where there is no place for them, or those that are there have another rank."""
        assert isinstance(net, Pretrained)
        tune, rank = self.tune, adapters.rank_of(net.body)
        if rank is None:
            targets = net.at.family.targets if tune.targets == "default" else tune.targets
            adapters.inject(net.body, rank=tune.rank, alpha=tune.alpha, targets=targets, seed=self.seed)
        else:
            fits(tune, "tuning", Expected(model="checkpoint", rank=rank))
            adapters.rescale(net.body, tune.alpha)
        if tune.checkpointing:
            net.body.enable_gradient_checkpointing()  # type: ignore[operator]
        if tune.compile:
            net.compile_blocks()


def _recompute(net: nn.Module) -> None:
    assert isinstance(net, Pretrained)
    net.body.enable_gradient_checkpointing()  # type: ignore[operator]


def same_base(where: str, init: nn.Module, teacher: nn.Module) -> None:
    """ValueError unless what is made of checkpoints, a student and its teacher, is made of one."""
    if isinstance(init, Pretrained) and not (isinstance(teacher, Pretrained) and init.at.files == teacher.at.files):
        raise ValueError(f"{where}.init: made of another checkpoint than {where}.teacher; name one of the same")


def made_of(init: Expected | None, tune: AnyTune) -> Expected | None:
    """What a training that starts from `init` makes; None where nothing is known of that."""
    if init is None:
        return None
    if init.model == "checkpoint":
        rank = tune.rank if isinstance(tune, Lora) else None
        return Expected(model="checkpoint", sketch=init.sketch, rank=rank, is_student=init.is_student)
    return Expected(model="trained", sketch=init.sketch, is_student=init.is_student)
