"""The weights of a training's roles, behind one object: what learns, what follows, what is saved, what is frozen.

Networks that nobody changes exist once: the teacher, a policy's reference and the model that both came from may be one
module, and none of them is in a checkpoint. Whether a trained role owns all of its weights or shares most of them with
the others is the `Tuning`'s to say.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from stages.core.messages import pick
from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.core.types import Reward, Space
from stages.models.discriminator import Discriminator, Pool
from stages.models.ema import follow, warm
from stages.training import shards
from stages.training.method import Follower, Frozen, Role, Trained

AVERAGE = "average"
"""The student's evaluation average, which follows it as a role of its own."""


@dataclass(frozen=True)
class Start:
    """Where networks begin, and what they are judged by. The networks are the training's from then on."""

    init: nn.Module
    teacher: nn.Module
    space: Space
    reward: Reward | None = None
    prompts: Sequence[Prompt] = ()
    """What the rows of the text table stand for, where there is a reward."""
    weights: tuple[float, ...] = (1.0,)
    """Of rewards that are kept apart, in their sum."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Of the text table, by the texts of the prompts that the method names."""
    num_students: int = 1
    """Networks that each trained role is made of, each for its part of the prompts."""


class Tuning(Protocol):
    """Which weights of a trained network are its own, and whether each worker has all of them."""

    @property
    def in_parts(self) -> bool:
        """Whether workers that train together hold a part of every network each."""
        ...

    def twin(self, net: nn.Module) -> nn.Module:
        """A network that begins as `net` and can be trained beside it."""
        ...

    def own(self, net: nn.Module) -> dict[str, Tensor]:
        """By name, the tensors of a twin that are its own, parameters and buffers: they are trained and saved."""
        ...


class Full:
    """Every role is a copy of a whole network."""

    in_parts = False

    def twin(self, net: nn.Module) -> nn.Module:
        """A deep copy."""
        return copy.deepcopy(net)

    def own(self, net: nn.Module) -> dict[str, Tensor]:
        """All of it."""
        return net.state_dict(keep_vars=True)


FULL = Full()


@dataclass(frozen=True)
class Parted(Full):
    """Every role is a copy, of which each worker holds a part."""

    in_parts = True
    ready: Callable[[nn.Module], None] = lambda _net: None
    """Makes a twin ready to be trained."""

    def twin(self, net: nn.Module) -> nn.Module:
        """A deep copy, ready."""
        made = super().twin(net)
        self.ready(made)
        return made


@dataclass(frozen=True)
class Adapters:
    """Twins on one base: modules apart, whose base tensors are the same and whose adapters are their own.

    Each role has its own module tree, and none is ever switched: under activation checkpointing the backward pass runs
    a network again, and would see whatever adapter had been switched on meanwhile.
    """

    in_parts = False

    is_adapter: Callable[[str], bool]
    """By a tensor's name."""
    ready: Callable[[nn.Module], None] = lambda _net: None
    """Makes a twin ready to be trained, as by giving it adapters where it has none."""

    def twin(self, net: nn.Module) -> nn.Module:
        """A copy that shares all but the adapters."""
        tensors = [*net.named_parameters(), *net.named_buffers()]
        made = copy.deepcopy(net, {id(tensor): tensor for name, tensor in tensors if not self.is_adapter(name)})
        self.ready(made)
        return made

    def own(self, net: nn.Module) -> dict[str, Tensor]:
        """The adapters."""
        return {name: tensor for name, tensor in net.state_dict(keep_vars=True).items() if self.is_adapter(name)}


Builder = Callable[[Start, int], nn.Module]
"""From the start and a seed."""


def _teacher(start: Start, _seed: int) -> nn.Module:
    """A closed form has nothing to train: the initial model stands in for it."""
    return start.teacher if any(True for _ in start.teacher.parameters()) else start.init


def _head(start: Start, seed: int) -> nn.Module:
    return Discriminator(start.teacher.feature_dim, seed)  # type: ignore[arg-type]


def _pair(start: Start, seed: int) -> nn.Module:
    return Discriminator(2 * start.teacher.feature_dim, seed)  # type: ignore[arg-type]


COPIED: Mapping[str, Builder] = MappingProxyType({"init": lambda start, _seed: start.init, "teacher": _teacher})
"""Networks that a trained role may begin as a twin of."""
HEADS: Mapping[str, Builder] = MappingProxyType({"head": _head, "pair": _pair})
"""Small networks, made anew, that judge the features of another and see no sample."""


def heads_of(roles: Mapping[str, Role]) -> list[str]:
    """The roles that are heads: small beside networks, and counted apart."""
    return [name for name, role in roles.items() if isinstance(role, Trained) and role.start in HEADS]


class Weights:
    """The networks of all roles, and the student's average."""

    nets: dict[str, nn.Module]
    """By role; "teacher" is always there."""
    average: nn.Module
    """What training makes."""
    _empty: nn.Module | None
    """Takes the average's weights at the end, where they are held in parts."""

    def __init__(self, roles: Mapping[str, Role], start: Start, *, seed: int, device: str, tuning: Tuning) -> None:
        self.roles, self._tuning, self._empty = roles, tuning, None
        self._fresh: dict[str, Callable[[int], nn.Module]] = {}
        tunings = dict.fromkeys([*roles, AVERAGE], tuning)
        self.nets = {"teacher": _frozen(start.teacher, device)}
        for name, role in roles.items():
            match role:
                case Trained(start=begin, pool=count) if begin in HEADS:
                    tunings[name] = Full()
                    self._fresh[name] = partial(HEADS[begin], start)
                    self.nets[name] = _frozen(_heads(self._fresh[name], count, name, seed), device)
                case Trained():
                    self.nets[name] = _begun(role, start, seed=seed, device=device, tuning=tuning)
                case Frozen():
                    self.nets[name] = _frozen(start.init, device)
        for name, role in roles.items():
            if isinstance(role, Follower):
                tunings[name] = tunings[role.of]
                self.nets[name] = tunings[name].twin(self.nets[role.of])
        self.average = tuning.twin(self.nets["student"])
        self._tunings = tunings
        self._look()

    def _look(self) -> None:
        """Note what each network that changes owns."""
        changing = {**self.nets, AVERAGE: self.average}
        for name, role in {"teacher": Frozen(), **self.roles}.items():
            if isinstance(role, Frozen):
                del changing[name]
        self._own = {name: self._tunings[name].own(net) for name, net in changing.items()}
        self._learnt = {name: self._learns(name, own) for name, own in self._own.items()}

    def _learns(self, name: str, own: Mapping[str, Tensor]) -> list[nn.Parameter]:
        """Of what is the role's own: all of it, or the part that was made to learn alone."""
        role = self.roles.get(name)
        found = {key: tensor for key, tensor in own.items() if isinstance(tensor, nn.Parameter)}
        part = role.part if isinstance(role, Trained) else None
        alone = [tensor for key, tensor in found.items() if part and key.startswith(f"{part}.")]
        return alone or list(found.values())

    def divide(self, device: str) -> None:
        """Keep this worker's part of every network, on `device`; all workers must call this, before any optimiser."""
        self._empty = shards.hollow(self.average)
        for net in {id(net): net for net in [*self.nets.values(), self.average]}.values():
            shards.split(net, device)
        self._look()

    def made(self) -> nn.Module:
        """The student's average, whole; where weights are held in parts, all workers must call this."""
        return shards.filled(self._empty, self.average) if self._empty else self.average

    @property
    def changing(self) -> list[Tensor]:
        """Every tensor that training changes, of averages too."""
        return [tensor for own in self._own.values() for tensor in own.values()]

    def parameters(self, role: str) -> list[nn.Parameter]:
        """What the optimiser of `role` moves."""
        return self._learnt[role]

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by "<role>:<name>"; the tensors themselves."""
        return {f"{role}:{name}": tensor.detach() for role, own in self._own.items() for name, tensor in own.items()}

    @contextmanager
    def learning(self, roles: Sequence[str]) -> Iterator[list[nn.Parameter]]:
        """Only `roles` collect gradients inside: a critic must not learn from the student's step."""
        parameters = [p for role in roles for p in self._learnt[role]]
        for p in parameters:
            p.requires_grad_(True)
        yield parameters
        for p in parameters:
            p.requires_grad_(False)

    @torch.no_grad()
    def blend(self, of: str, into: str, weight: float) -> None:
        """Move what is `into`'s own by `weight` of the way towards `of`'s, which may be frozen."""
        own = self._own[into]
        source = self._own.get(of) or self._tuning.own(self.nets[of])
        for name, tensor in own.items():
            if isinstance(tensor, nn.Parameter):
                tensor.lerp_(source[name], weight)

    def renew(self, name: str, share: float, rng: Generator) -> list[nn.Parameter]:
        """Begin a random `share` of the pool `name` anew, head by head; returns the parameters of those."""
        pool = self.nets[name]
        assert isinstance(pool, Pool)
        drawn = torch.rand(len(pool.heads), generator=rng, device=rng.device) < share
        seeds = torch.randint(2**62, (len(pool.heads),), generator=rng, device=rng.device).tolist()
        numbers = drawn.nonzero()[:, 0].tolist()
        return [p for number in numbers for p in pool.renew(number, self._fresh[name](seeds[number]))]

    def follow(self, name: str, updates: int, ema: float) -> None:
        """After update `updates` of `name`: what follows it moves, and its average where it is the student."""
        for other, role in self.roles.items():
            if isinstance(role, Follower) and role.of == name:
                follow(self._own[other], self._own[name], role.decay(updates))
        if name == "student":
            follow(self._own[AVERAGE], self._own[name], warm(ema, updates))


def _heads(fresh: Callable[[int], nn.Module], count: int | None, name: str, seed: int) -> nn.Module:
    """One head, or a pool of `count`."""
    if count is None:
        return fresh(seed)
    seeds = torch.randint(2**62, (count,), generator=stream(seed, f"pool {name}")).tolist()
    return Pool([fresh(each) for each in seeds])


def _begun(role: Trained, start: Start, *, seed: int, device: str, tuning: Tuning) -> nn.Module:
    """A trained network as it begins, no head."""
    origin = pick(COPIED, role.start, "builder of a trained network")(start, seed)
    net = tuning.twin(_frozen(origin, device))
    if start.num_students > 1:
        net.divide(start.num_students)  # type: ignore[operator]
    if role.second_time:
        net.add_second_time(seed)  # type: ignore[operator]
    if role.latent_variable:
        net.add_latent_variable(math.prod(start.space.shape), seed)  # type: ignore[operator]
    if role.negative_reader:
        net.add_negative_reader(seed)  # type: ignore[operator]
    if role.policy:
        net.add_policy(role.policy, seed)  # type: ignore[operator]
    if role.companion:
        net.add_new_companion(role.companion, start.space.shape, seed)  # type: ignore[operator]
    return net.requires_grad_(False)


def _frozen(net: nn.Module, device: str) -> nn.Module:
    return net.to(device).eval().requires_grad_(False)
