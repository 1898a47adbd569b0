"""What the samplers' bench samples: a mixture in closed form, and teachers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.cells.bench import Bench
from stages.core.config import check
from stages.core.frechet import frechet_distance
from stages.core.path import LINEAR
from stages.core.prompts import EMPTY
from stages.core.rng import normal_at, stream
from stages.core.spec import SamplerSpec
from stages.io.dataset import evenly
from stages.metrics.energy import energy_distance
from stages.models import load, table_of
from stages.models.mixture import GaussianMixture
from stages.samplers import Solution, drive, rule_of, sample
from stages.samplers.aligned import aligned_costs
from stages.samplers.field import Field
from stages.samplers.fields import field_of, over
from stages.samplers.fields.base import OfSamples
from stages.samplers.fits import Fit, fit_of
from stages.samplers.fits.model import Fitting
from stages.samplers.grid import Grid, build
from stages.samplers.prompted import Prompted
from stages.samplers.search import best_nodes, jump_costs
from stages.samplers.spec import Sampler
from stages.steering.noisy import why_not_noisy

ERROR, DISTANCE = "error", "distance"
BEST_NODES, ALIGNED_NODES = "best nodes", "aligned nodes"
"""Schedules that dynamic programming finds for each model: BOSS's, and by the bound of Align Your Steps."""
FINE_STEPS = 250
"""Of Heun's rule, whose end the errors are measured from."""
GRID_STEPS = 32
"""Of Euler's rule: the grid that the best nodes are chosen from."""
MIXTURE_SAMPLES = 4096
FEW, SOME = 2, 32
"""Samples that tell what a sampler costs, and of a field whose calls differ by the sample."""
FITTED_ON = 256
"""Samples that a sampler is fitted on."""


class Sampled(ABC):
    """A model that is sampled from the same noise by every rule."""

    noise: Tensor
    network: Prompted
    opens = False
    """Whether its network is called block by block, and has layers to round."""

    @abstractmethod
    def distance(self, samples: Tensor) -> float:
        """How far they are from the real thing."""

    @torch.no_grad()
    def run(self, spec: SamplerSpec, keep: Sequence[int] = ()) -> Solution:
        """From `noise` on."""

        def draw(node: int, x: Tensor) -> Tensor:
            return normal_at(1, f"node{node}", 0, len(x), tuple(x.shape[1:])).to(x)

        field = over(field_of(spec.field))(self.network, build(LINEAR, spec.times), self.noise)
        return drive(field, self.noise, rule_of(spec.rule), keep=keep, rng=draw)

    @torch.no_grad()
    def passes(self, spec: SamplerSpec) -> float:
        """What a sample takes, in passes without guidance, of a field that is not told by its samples what to do."""
        for count in (FEW, SOME):
            few = self.noise[:count]
            network = self.network.take(torch.arange(len(few)))
            field = over(field_of(spec.field))(network, build(LINEAR, spec.times), few)
            if not isinstance(field, OfSamples):
                break
        return drive(field, few, rule_of(spec.rule)).cost / self.network.passes

    def numbers(self, spec: SamplerSpec) -> dict[str, float]:
        """Of a rule; its error too, if it draws no noise."""
        x0 = self.run(spec).x0
        told = {DISTANCE: self.distance(x0)}
        draws_noise = why_not_noisy(spec) is None
        return told if draws_noise else {**told, ERROR: (x0 - self.exact).square().mean().sqrt().item()}

    def fit(self, knobs: Mapping[str, Any], schedule: Mapping[str, Any]) -> Fit:
        """Of a sampler on `schedule`, with the knobs that a row states."""
        return fit_of({**knobs, "schedule": schedule, "guidance": self.network.guidance, "num_samples": FITTED_ON})

    def fitted(self, fit: Fit) -> SamplerSpec:
        """The sampler."""
        with torch.no_grad():
            return replace(fit.fitted(self._fitting).spec, guidance=1.0)  # `network` has it

    @cached_property
    def _fitting(self) -> Fitting:
        of = torch.arange(FITTED_ON) % len(self.noise)
        noise, network = normal_at(2, "fit", 0, FITTED_ON, tuple(self.noise.shape[1:])).to(self.noise), self.network
        with torch.no_grad():
            x0 = sample(network.take(of), noise, plain("heun", GRID_STEPS).times, "heun").x0
        return Fitting(network.net, network.cond[of], noise, x0, lambda name: stream(2, name))

    @cached_property
    def exact(self) -> Tensor:
        """Where the flow leads, nearly."""
        return self.run(plain("heun", FINE_STEPS)).x0

    @torch.no_grad()
    def ratios(self, spec: SamplerSpec) -> list[float]:
        """By what the answers' size changes from node to node, on average; the first is 1."""
        few = self.noise[:FITTED_ON]
        field = _Sized(self.network.take(torch.arange(len(few))), build(LINEAR, spec.times), few)
        drive(field, few, rule_of(spec.rule))
        sizes = torch.stack(field.sizes)
        return [1.0, *(sizes[1:] / sizes[:-1]).mean(dim=1).tolist()]

    @cached_property
    def _costs(self) -> dict[str, Tensor]:
        spec = plain("euler", GRID_STEPS)
        times = torch.tensor(spec.times, dtype=torch.float64)
        states = self.run(spec, range(len(spec.times))).states
        with torch.no_grad():
            aligned = aligned_costs(self.network, self.exact, LINEAR, times, stream(2, "aligned"))
        return {BEST_NODES: jump_costs(states, times), ALIGNED_NODES: aligned}

    def best_nodes(self, steps: int, by: str) -> list[float]:
        """`steps` + 1 times out of a fine grid: BOSS's for Euler's rule, or by the bound of Align Your Steps."""
        times = plain("euler", GRID_STEPS).times
        return [times[node] for node in best_nodes(self._costs[by])[steps - 1][0]]


class _Sized(Field):
    """Keeps how large each sample's answers were."""

    def __init__(self, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self.sizes: list[Tensor] = []

    def velocity(self, x: Tensor, i: int) -> Tensor:
        answer = super().velocity(x, i)
        self.sizes.append(answer.flatten(1).norm(dim=1))
        return answer


def plain(rule: str, steps: int) -> SamplerSpec:
    """A rule without knobs, on equal steps."""
    stated = {"rule": {"name": rule}, "schedule": {"name": "uniform", "steps": steps}, "guidance": 1.0}
    return check(Sampler, stated, "sampler").spec


class Mixture(Sampled):
    """Eight components on a circle, all asked for at once."""

    def __init__(self) -> None:
        angles = torch.arange(8, dtype=torch.float64) * torch.pi / 4
        means = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
        self.law = GaussianMixture.even(means.tolist(), [0.1, 0.15, 0.2, 0.25, 0.3, 0.1, 0.2, 0.3])
        self.noise = normal_at(0, "noise", 0, MIXTURE_SAMPLES, (2, 1, 1)).double()
        self.cond = torch.full((MIXTURE_SAMPLES, 1), EMPTY)
        self.network = Prompted(self.law, self.cond)

    def distance(self, samples: Tensor) -> float:
        """The energy distance to as many exact samples."""
        return energy_distance(samples, self.law.sample(self.cond, stream(0, "truth")))


class Teacher(Sampled):
    """One for the test images' prompts, or for `most` of them, evenly chosen."""

    opens = True

    def __init__(self, folder: str, guidance: float, most: int | None = None) -> None:
        table = Path("data") / folder.replace("teacher", "encode")
        self.bench = Bench.load(Path("data/dataset"), table_of(table), Path("data/verifier"), "cpu")
        model = load(Path("data") / folder / "model", self.bench.table, "cpu")
        self.space = model.space
        places = self.bench.compared_places(1, 0)
        cond = self.bench.dataset.rows(evenly(places, most or len(places)))
        self.network = Prompted(model.net, cond, guidance)
        self.noise = normal_at(0, "noise", 0, len(cond), model.space.shape)

    def distance(self, samples: Tensor) -> float:
        """The Fréchet distance to the test images, on the verifier's features."""
        see = self.bench.verifier.features
        return frechet_distance(see(self.space.decode(samples)), see(self.bench.dataset.test_images))
