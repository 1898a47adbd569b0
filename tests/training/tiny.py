"""The smallest honest networks: a conditional velocity with features, and a discriminator head."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.rng import seeded
from stages.models.discriminator import Pool
from stages.models.policy import made
from stages.training.method import Follower, Role, Trained

PROMPTS = 9


class TinyNet(nn.Module):
    """A two-layer perceptron over pixels, time and the prompt's vector, in float64."""

    def __init__(self, seed: int, sample_shape: tuple[int, int, int] = (1, 4, 4)) -> None:
        super().__init__()
        self.sample_shape, self.feature_dim = sample_shape, 8
        self.interval: nn.Parameter | None = None  # where it has a second time: what it has learnt of it
        self.chance: nn.Parameter | None = None  # where it is told noise: what it has learnt of that
        self.policy: Any = None  # where it answers one
        self.companion: TinyNet | None = None  # where it carries one
        self.negative_reader: nn.Embedding | None = None  # where it reads negative prompts: what it has learnt of each
        size = torch.Size(sample_shape).numel()
        with seeded(seed):
            self.words = nn.Embedding(PROMPTS, 4)
            self.inner = nn.Linear(size + 5, 2 * self.feature_dim)
            self.outer = nn.Linear(2 * self.feature_dim, size)
        self.double()

    def hidden(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        joined = torch.cat([x.flatten(1), t[:, None], self.words(cond[:, 0])], dim=1)
        return torch.tanh(self.inner(joined))

    def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.hidden(x, t, cond).reshape(len(x), 2, self.feature_dim)

    def add_second_time(self, _seed: int) -> None:
        if self.interval is None:
            self.interval = nn.Parameter(0.1 * torch.ones_like(self.outer.bias[:1]))

    def add_latent_variable(self, _size: int, _seed: int) -> None:
        if self.chance is None:
            self.chance = nn.Parameter(0.3 * torch.ones_like(self.outer.bias[:1]))

    def add_negative_reader(self, seed: int) -> None:
        if self.negative_reader is None:
            with seeded(seed):
                self.negative_reader = nn.Embedding(PROMPTS, 1).to(self.outer.weight)

    def add_new_companion(self, *_size: Any) -> None:
        if self.companion is None:
            channels, *sides = self.sample_shape
            self.companion = TinyNet(99, (2 * channels, *sides)).to(self.outer.weight)

    def beside(self, x: Tensor, t: Tensor, cond: Tensor, told: Tensor) -> Tensor:
        assert self.companion is not None, "asked for another network, and carries none"
        return self.companion(torch.cat([x, told], dim=1), t, cond)[:, : x.shape[1]]

    def add_policy(self, choice: Mapping[str, Any], seed: int) -> None:
        if self.policy is None:
            self.policy, size = made(choice), torch.Size(self.sample_shape[1:]).numel()
            with seeded(seed):
                width = self.policy.channels(self.sample_shape[0]) * size
                self.outer = nn.Linear(2 * self.feature_dim, width).to(self.outer.weight)

    @property
    def rows(self) -> int:
        return 1 if self.policy is None else self.policy.rows

    def fields(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.outer(self.hidden(x, t, cond)).reshape(len(x), -1, *x.shape[2:])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Tensor,
        until: Tensor | None = None,
        z: Tensor | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        if self.policy is not None:
            return self.policy.velocity(self.fields(x, t, cond), x, t, until)
        answer = self.outer(self.hidden(x, t, cond)).reshape(x.shape)
        if z is not None:
            assert self.chance is not None, "told noise, without a latent variable"
            answer = answer + self.chance * z * torch.cos(x)
        if negative is not None:
            assert self.negative_reader is not None, "told a negative prompt, and reads none"
            away = self.negative_reader(cond[:, 0]) - self.negative_reader(negative[:, 0])
            answer = answer + expand(away[:, 0], x) * torch.cos(x)
        if until is None:
            return answer
        assert self.interval is not None, "asked for an average, with one time"
        return answer + self.interval * expand(t - until, x) * torch.sin(x)


class TinyHead(nn.Module):
    """Logits [...] of features [..., T, F]."""

    def __init__(self, seed: int, feature_dim: int = 8) -> None:
        super().__init__()
        with seeded(seed):
            self.inner = nn.Linear(feature_dim, 4)
            self.outer = nn.Linear(4, 1)
        self.double()

    def forward(self, features: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(features)).mean(dim=-2)).squeeze(-1)


def of_roles(roles: Mapping[str, Role]) -> dict[str, nn.Module]:
    """A network for the teacher and for each role, no two the same, of two times or a policy where the role is."""
    nets: dict[str, nn.Module] = {"teacher": TinyNet(0)}
    for seed, (name, role) in enumerate(roles.items(), 1):
        dims = {"head": 8, "pair": 16}.get(role.start) if isinstance(role, Trained) else None
        pool = role.pool if isinstance(role, Trained) else None
        heads = [TinyHead(seed + 100 * number, dims) for number in range(pool or 1)] if dims else []
        nets[name] = (Pool(heads) if pool else heads[0]) if dims else TinyNet(seed)
        origin = roles.get(role.of) if isinstance(role, Follower) else role
        if isinstance(origin, Trained) and origin.second_time:
            nets[name].add_second_time(seed)  # type: ignore[operator]
        if isinstance(origin, Trained) and origin.latent_variable:
            nets[name].add_latent_variable(0, seed)  # type: ignore[operator]
        if isinstance(origin, Trained) and origin.negative_reader:
            nets[name].add_negative_reader(seed)  # type: ignore[operator]
        if isinstance(origin, Trained) and origin.companion:
            nets[name].add_new_companion()  # type: ignore[operator]
        if isinstance(origin, Trained) and origin.policy:
            nets[name].add_policy(origin.policy, seed)  # type: ignore[operator]
    return nets
