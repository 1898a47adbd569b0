"""What networks that are trained here have in common: one time, or two; a velocity, or the fields of a policy; noise of
their own, or none; one prompt, or a negative one too; one network, or several that share prompts; another beside it, or
none; samples of numbers, or of tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core.noising import Noising
from stages.core.precision import widened
from stages.core.prompts import EMPTY
from stages.core.rng import seeded
from stages.core.types import Cond, Guiding
from stages.models import tokens

if TYPE_CHECKING:  # see text.py
    from stages.models.latent_variable import LatentVariable
    from stages.models.negative_reader import NegativeReader
    from stages.models.policy import Policy
    from stages.models.second_time import SecondTime


class TwoTimes(nn.Module, ABC):
    """A network of one time, until it is given a second one, a policy, a latent variable or a negative prompt's reader.

    Who names one time gets the velocity there, who names no noise that of no noise, and who names no negative prompt
    that away from the empty one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.second_time: SecondTime | None = None
        self.policy: Policy | None = None
        self.latent_variable: LatentVariable | None = None
        self.negative_reader: NegativeReader | None = None
        self.tokens: Noising | None = None
        """What noise does to them where samples are tokens, see tokens.py: then its body answers logits, and it has
        nothing of the above."""
        self.companion: TwoTimes | None = None
        """A network of one velocity that it carries for samplers which ask another, too; see `beside`."""

    @property
    def away(self) -> Guiding | None:
        """How it is guided where that is not as velocities are."""
        return tokens.away if self.tokens else None

    @abstractmethod
    def asked(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """What the body answers at (x [B, C, H, W], t [B])."""

    @property
    @abstractmethod
    def last_layer(self) -> tuple[Any, int, int]:
        """What makes the channels of an answer; rows of its weight that have a channel in common are so many apart,
        and so many together.
        """

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Cond,
        until: Tensor | None = None,
        z: Tensor | None = None,
        negative: Cond | None = None,
    ) -> Tensor:
        """The velocity at (x [B, C, H, W], t [B]), on average from t to `until` where the network answers averages,
        told noise `z` [B, C, H, W] where it has a latent variable, away from the prompts `negative` [B, 1] where it
        reads those.
        """
        if self.tokens:
            told = torch.ones_like(t) if self.tokens == "masked" else t
            return tokens.drift(widened(self.asked(x, told, cond)), x, t, self.tokens)
        if self.policy is not None:
            return self.policy.velocity(widened(self.fields(x, t, cond)), x, t, until)
        with self.told(t, until, z), self.led(cond, negative):
            return self.asked(x, t, cond)

    def beside(self, x: Tensor, t: Tensor, cond: Cond, told: Tensor | None = None) -> Tensor:
        """The companion's answer like x [B, C, H, W], for one that is `told` more, as channels behind those of x.

        ValueError where there is no companion.
        """
        if self.companion is None:
            raise ValueError(
                "the model carries no other network, and its sampler asks for one; set companion: teacher in its arm, "
                "or take a method that trains one, such as flow_turbo"
            )
        return self.companion(x if told is None else torch.cat([x, told], dim=1), t, cond)[:, : x.shape[1]]

    @property
    def share_beside(self) -> float:
        """What a call of the companion takes of a call of the network, by their weights."""
        weights = [sum(p.numel() for p in net.body.parameters()) for net in (self, self.companion) if net]  # pyright: ignore
        return weights[-1] / weights[0]

    def add_companion(self, made: "TwoTimes") -> None:
        """Have it carry `made`, as it may."""
        self.may_carry(made)
        self.companion = made

    def add_new_companion(self, size: Any, shape: tuple[int, ...], seed: int) -> None:
        """The same with a fresh network of such a `size` that is told two samples of `shape` (C, H, W)."""
        from stages.models.network import seeded_build

        (channels, *sides), device = shape, next(self.parameters()).device
        with device if device.type == "meta" else nullcontext():  # where the text has no values to be looked up
            made = seeded_build(seed, size, (2 * channels, *sides), self.text)  # pyright: ignore
        self.add_companion(made.to(device))

    def may_carry(self, made: "TwoTimes") -> None:
        """ValueError where `made` is more than one network of one velocity, or this is several or carries another."""
        if self.companion is not None or self.tokens or self.num_students > 1:
            what = "that carries one" if self.companion is not None else self._more_than_one_velocity()
            raise ValueError(f"a model {what} carries no other network; set companion to null, or start from another")
        if what := "that carries another" if made.companion is not None else made._more_than_one_velocity():
            raise ValueError(f"a model {what} is no companion; name a teacher of one time, one velocity and no noise")

    def fields(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """[B, H, ...]: all that a network with a policy answers, for the policy to make velocities of."""
        with self.told(t, None):
            return self.asked(x, t, cond)

    @property
    @abstractmethod
    def time_embedding(self) -> tuple[nn.Module, int]:
        """The layer that embeds t, which the second time joins, and the width of its answer."""

    @property
    def rows(self) -> int:
        """That go through the network for one that asks."""
        return 1 if self.policy is None else self.policy.rows

    @property
    def num_students(self) -> int:
        """Networks that share the prompts between them."""
        return len(getattr(self.body, "members", [self.body]))  # pyright: ignore[reportArgumentType]

    def divide(self, count: int) -> None:
        """Make it `count` networks that share the prompts, unless it is so many; no answer changes.

        ValueError where it is another number of them, has two times or answers a policy.
        """
        if self.num_students == count:
            return
        if what := self._more_than_one_velocity():
            raise ValueError(f"num_students={count}: it starts from a model {what}; set it to 1, or start from another")
        from stages.models.several import Several

        every = torch.arange(1, len(self.text), device=next(self.parameters()).device)  # pyright: ignore
        with torch.no_grad():
            self.body = Several.of(self.body, self.text(every[:, None])["hidden"], count)  # pyright: ignore

    def by_student(self, words: Tensor, call: Callable[[Any, Tensor | slice], Tensor]) -> Tensor:
        """Answers [B, ...] of call(body, rows), each row by the network of its prompt, whose tokens are words."""
        if self.num_students > 1:
            return self.body.by_member(words, call)  # pyright: ignore
        # Features are of one time: of the network that one which is asked for several has inside.
        return call(getattr(self.body, "inner", self.body), slice(None))

    def add_second_time(self, seed: int) -> None:
        """Give it the second time, unless it has one; no answer changes.

        ValueError where it is several networks, or answers a policy.
        """
        if self.second_time is not None:
            return
        if (what := self._more_than_one_velocity()) and self.latent_variable is None:
            raise ValueError(f"a model {what} has one time; start a method of two times from another")
        from stages.models.second_time import SecondTime

        with seeded(seed):
            made = SecondTime(self.time_embedding[1])
        self.second_time = made.to(next(self.parameters()))  # pyright: ignore[reportArgumentType]

    def add_policy(self, choice: Mapping[str, Any], seed: int) -> None:
        """Have it answer the fields of a policy, unless it does; they begin as its velocity, or nearly.

        `choice` is a policy's name with its knobs. ValueError where it answers another, has two times or is several.
        """
        from stages.models.policy import made

        if self.policy is not None and self.policy.choice == choice:
            return
        if what := self._more_than_one_velocity():
            raise ValueError(f"it starts from a model {what}, and is to answer another policy; start it from another")
        policy = made(choice)
        if policy.rows > 1:
            from stages.models.temporal import Temporal

            self.body = Temporal.of(self.body, self.time_embedding, policy.rows, policy.modes)
        else:
            from stages.models.widening import widen

            self._says(widen(self.last_layer, policy, seed))
        self.policy = policy

    def add_latent_variable(self, size: int, seed: int) -> None:
        """Tell it noise of so many numbers, unless it is told some; no answer changes.

        ValueError where it has two times, answers a policy or is several networks.
        """
        if self.latent_variable is not None:
            return
        if what := self._more_than_one_velocity():
            raise ValueError(f"a model {what} is told no noise of its own; start from another")
        from stages.models.latent_variable import LatentVariable

        with seeded(seed):
            made = LatentVariable(size, self.time_embedding[1])
        self.latent_variable = made.to(next(self.parameters()))  # pyright: ignore[reportArgumentType]

    def add_negative_reader(self, seed: int) -> None:
        """Have it read a negative prompt, unless it does; no answer changes.

        ValueError where it is more than one network of one time, one velocity and no noise.
        """
        if self.negative_reader is not None:
            return
        if what := self._more_than_one_velocity():
            raise ValueError(f"a model {what} reads no negative prompt of its own; start from another")
        from stages.models.negative_reader import NegativeReader

        empty = torch.full((1, 1), EMPTY, device=next(self.parameters()).device)
        with seeded(seed):
            width = self.text(empty)["hidden"].shape[-1]  # pyright: ignore[reportCallIssue]
            made = NegativeReader.made_for(self.body, self.time_embedding[1], width)  # pyright: ignore
        self.negative_reader = made.to(next(self.parameters()))  # pyright: ignore[reportArgumentType]

    def _says(self, channels: int) -> None:
        """Have the body know of so many channels, as diffusers builds it again from what it knows."""
        self.body.register_to_config(out_channels=channels)  # pyright: ignore
        if "out_channels" in vars(self.body):
            self.body.out_channels = channels  # pyright: ignore

    def _more_than_one_velocity(self) -> str | None:
        """What it is made into, for messages; None for one network with one velocity."""
        if self.tokens:
            return "of tokens"
        if self.num_students > 1:
            return f"of {self.num_students} students"
        if self.policy is not None:
            return "that answers a policy"
        if self.latent_variable is not None:
            return "that is told noise"
        if self.negative_reader is not None:
            return "that reads negative prompts"
        return None if self.second_time is None else "of two times"

    def led(self, cond: Cond, negative: Cond | None = None) -> AbstractContextManager[None]:
        """While it lasts, a body that reads them is led away from the prompts `negative` [B, 1], or the empty one.

        ValueError where one that reads none is told some.
        """
        if self.negative_reader is None:
            if negative is not None:
                raise ValueError(
                    "the network reads no negative prompt, and was told one; lead away from it by guidance, or take a "
                    "student of a method that trains it to, such as speed_up_net"
                )
            return nullcontext()
        others = torch.full_like(cond, EMPTY) if negative is None else negative
        words = (self.text(rows)["hidden"] for rows in (cond, others))  # pyright: ignore[reportCallIssue]
        return self.negative_reader.joins(self.body, self.time_embedding[0], *words)  # pyright: ignore[reportArgumentType]

    def told(self, t: Tensor, until: Tensor | None, z: Tensor | None = None) -> ExitStack:
        """While it lasts, the embedding of t [B] is told of `until` [B] and of noise z.

        ValueError where a network of one time is asked for an average, or one without a latent variable is told noise.
        """
        told = ExitStack()
        if self.latent_variable is None and z is not None:
            raise ValueError(
                "the network has no latent variable, and was told noise; the sampler rule ddgan is for students of "
                "methods that train one, such as ddgan"
            )
        if self.second_time is None and until is not None:
            raise ValueError(
                "the network has one time, and was asked for the average velocity between two; the sampler rule "
                "flow_map is for students of methods that train one, such as meanflow"
            )
        if self.latent_variable is not None:
            nothing = t.new_zeros(len(t), self.latent_variable.size)
            told.enter_context(self.latent_variable.joins(self.time_embedding[0], nothing if z is None else z))
        if self.second_time is not None:
            interval = torch.zeros_like(t) if until is None else t - until
            told.enter_context(self.second_time.joins(self.time_embedding[0], interval))
        return told
