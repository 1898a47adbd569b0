"""The one training loop: optimisers, averages, clipping, precision, checkpoints, counting.

A method brings pure losses (`method.py`); nothing in here knows any method by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from stages.core.ranks import ALONE, Ranks
from stages.core.rng import fork, stream
from stages.core.types import Batch, Sink, World
from stages.training import checkpoint
from stages.training.budget import Budget
from stages.training.checks import finite
from stages.training.cost import SCORED, Cost, Meter
from stages.training.method import Method, Phase, Renewal, Trained, carries
from stages.training.networks import world_of
from stages.training.parallel import Agreed, Metric, Pairwise, Team, give_gradient, heard, take_gradient
from stages.training.roles import FULL, Start, Tuning, Weights, heads_of
from stages.training.shards import whole
from stages.training.stopping import Onlooker, Watch
from stages.training.turns import waited

REPORT_EVERY = 10
"""Iterations between two reports, and between two looks for numbers that are not finite."""


@dataclass(frozen=True)
class Outcome:
    """What training leaves."""

    student: nn.Module
    """The evaluation average, frozen."""
    cost: Cost
    metrics: Mapping[str, float]
    """The last report."""
    iterations: int
    """The budget's, or fewer where a rule stopped it."""
    stopped: str | None = None
    """That rule."""


class Trainer:
    """The state of one training: networks by role, their optimisers, and the iteration reached."""

    def __init__(  # noqa: PLR0913 - what a training is
        self,
        method: Method,
        cfg: Any,
        budget: Budget,
        start: Start,
        *,
        seed: int,
        device: str,
        ranks: Ranks = ALONE,
        tuning: Tuning = FULL,
    ) -> None:
        self.method, self.cfg, self.budget, self.seed, self.device = method, cfg, budget, seed, device
        self.roles = dict(method.roles(cfg))
        self.in_parts = tuning.in_parts and ranks.world > 1
        """Whether this worker holds a part of each network alone, so that none can call one by itself."""
        place = "cpu" if self.in_parts else device  # whole networks may not fit where their parts do
        self.weights = Weights(self.roles, start, seed=seed, device=place, tuning=tuning)
        if self.in_parts:
            self.weights.divide(device)
        self.optimisers = {
            name: torch.optim.AdamW(
                self.weights.parameters(name), lr=role.lr, betas=role.betas, weight_decay=role.weight_decay, fused=True
            )
            for name, role in self.roles.items()
            if isinstance(role, Trained)
        }
        nets = self.weights.nets
        self.heads = heads_of(self.roles)
        self.meter = Meter(nets)
        self.team, self.own = Team(ranks, device), ranks.share(budget.slices)
        # Networks in parts are called by all workers in one order, and so slice by slice.
        reward, self.turns = waited(start.reward, 1 if tuning.in_parts else len(self.own))
        judge = reward and (reward, start.prompts, start.weights)
        world = world_of(nets, start.space, judge, self.meter, precision=budget.precision, device=device)
        self.world = replace(world, rows=start.rows)
        self.agreed = Agreed(self.team)
        if tuning.in_parts:  # whatever their number is now: what is drawn must not depend on it
            self.world = replace(self.world, agreed=self.agreed)
        self.iteration = 0
        self.counted = torch.zeros(len(self.meter.names), dtype=torch.float64)
        """What `meter` names, over all workers, up to the last whole iteration."""
        self.updates = dict.fromkeys(self.optimisers, 0)
        self.carried: list[dict[str, torch.Tensor]] = [{} for _ in range(budget.slices)]
        """What the method goes on from in the next iteration, of every slice."""
        self.watch: Watch | None = None

    def run(
        self,
        batch_at: Callable[[int], Batch],
        *,
        resume: Path,
        sink: Sink,
        watch: Watch | None = None,
        gallery: Onlooker | None = None,
    ) -> Outcome:
        """Train to the end of the budget, or until `watch` ends it, from `resume` if an interrupted run left its state.

        `batch_at(iteration)` must be a pure function, which makes a resumed run bitwise the uninterrupted one.
        `gallery` looks on, and what it finds is reported too.
        Of several workers only the first writes or reports. Raises ValueError when a loss or weight stops being
        finite or workers differ, ConnectionError when another worker is lost.
        """
        with heard():
            return self._trained(batch_at, resume, sink, watch, gallery)

    def _trained(
        self,
        batch_at: Callable[[int], Batch],
        resume: Path,
        sink: Sink,
        watch: Watch | None,
        gallery: Onlooker | None,
    ) -> Outcome:
        self.watch, stopped = watch, None
        self.team.receive(resume / checkpoint.STATE)
        checkpoint.restore(self, resume)
        self._agree("before training")
        report = dict[str, float]()
        if gallery and not self.iteration:
            sink(0, self._looked(gallery))
        with checkpoint.Saver(resume, self.iteration, writes=self.team.ranks.leads) as saver:
            while self.iteration < self.budget.iterations and not stopped:
                metrics = self.step(batch_at(self.iteration))
                stopped = watch and self._seen(watch, metrics)
                last = self.iteration == self.budget.iterations or bool(stopped)
                due = bool(gallery and gallery.due(self.iteration, last=last))
                if self.iteration % REPORT_EVERY == 0 or last or due:
                    report = self._checked(metrics, saver)
                    told = {f"stopped_by_{stopped}": float(self.iteration)} if stopped else {}
                    sink(self.iteration, report | told | (self._looked(gallery) if gallery and due else {}))
                if not last and self._saves(saver):
                    self._checked(metrics, saver)
                    saver.save(self)
        self._agree("after training")
        return Outcome(self.weights.made(), self.cost, report, self.iteration, stopped)

    @property
    def cost(self) -> Cost:
        """What the iterations so far took."""
        return Cost.of(self.meter.names, [int(count) for count in self.counted.tolist()], self.heads)

    def step(self, batch: Batch) -> dict[str, Metric]:
        """One iteration: every phase that is due, in order. Returns its metrics under "<phase>/<name>"."""
        factor = self.budget.lr_factor(self.iteration)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.roles[name].lr * factor  # type: ignore[union-attr]
        world = replace(self.world, progress=self.iteration / self.budget.iterations, iteration=self.iteration)
        phases = self.method.phases(self.cfg)
        jobs, sources = [], []
        for index, (part, rng) in zip(self.own, self._slices(batch), strict=True):
            prepared, *source = fork(rng, "prepare", *(phase.name for phase in phases))
            jobs.append(partial(self._prepared, replace(world, carried=self.carried[index]), part, prepared))
            sources.append(source)
        self.agreed.begin()
        parts = self.turns.each(jobs) if self.turns else [job() for job in jobs]
        if names := carries(self.method):
            self.carried = self.team.gathered([{name: part[name] for name in names} for part in parts])
        metrics: dict[str, list[Metric]] = {}
        for index, phase in enumerate(phases):
            if self.iteration % phase.every or not phase.start <= world.progress < phase.stop:
                continue
            turns = [fork(source[index], *(str(i) for i in range(phase.repeats))) for source in sources]
            for turn in zip(*turns, strict=True):
                found = self._update(phase, world, parts, turn)
            for blend in phase.blends:
                self.weights.blend(blend.of, blend.into, blend.weight)
            for renewal in phase.renewals:
                self._renew(renewal)
            metrics |= {f"{phase.name}/{name}": values for name, values in found.items()}
        self.iteration += 1
        return self._pooled(metrics)

    @torch.no_grad()
    def _prepared(self, world: World, part: Batch, rng: Generator) -> Batch:
        prepared = self.method.prepare(world, part, rng, self.cfg)
        self.agreed.next()
        return prepared

    def _agree(self, when: str) -> None:
        """ValueError unless all workers have the same weights; of parts nobody has another's."""
        if not self.in_parts:
            self.team.agree(self.weights.state(), when)

    def _saves(self, saver: checkpoint.Saver) -> bool:
        """Whether this worker copies its state now: the leader, or all of them where each has a part."""
        due = self.team.ranks.leads and saver.due()
        return bool(self.team.told(due)) if self.in_parts else due

    @property
    def _looks(self) -> bool:
        """Whether this worker takes part in a look at the student."""
        return self.team.ranks.leads or self.in_parts

    def _renew(self, renewal: Renewal) -> None:
        rng = stream(self.seed, f"renewal of {renewal.of}", self.iteration)
        for parameter in self.weights.renew(renewal.of, renewal.share, rng):
            self.optimisers[renewal.of].state.pop(parameter, None)

    def _seen(self, watch: Watch, metrics: Mapping[str, Metric]) -> str | None:
        """The rule that ends the training, the same on every worker; none before the student has begun to move."""
        if not self.updates["student"]:
            return None
        looks = {}
        for name in watch.due(self.iteration):
            probe = watch.probes[name]
            found = probe(self.weights.average) if self._looks else 0.0
            own = found if self.team.ranks.leads else 0.0
            looks[name] = self.team.total(torch.tensor([own], dtype=torch.float64, device=self.device)).item()
            self._count(probe.forward, probe.scored)
        return watch.see({name: float(value) for name, value in metrics.items()}, looks)

    def _looked(self, gallery: Onlooker) -> dict[str, float]:
        self._count(gallery.forward, gallery.scored)
        return gallery(self.weights.average, self.iteration) if self._looks else {}

    def _count(self, forward: int, scored: int) -> None:
        """What a look takes, which is no iteration's."""
        for name, count in (("student/forward", forward), (SCORED, scored)):
            self.counted[self.meter.names.index(name)] += count

    def _slices(self, batch: Batch) -> list[tuple[Batch, Generator]]:
        """This worker's slices of the batch, each with its random numbers."""
        rng, count = stream(self.seed, "iteration", self.iteration, self.device), self.budget.slices
        if count == 1:
            return [(batch, rng)]
        num_rows = len(batch["cond"])
        self.budget.check_slices("the batch's rows", num_rows)
        size, sources = num_rows // count, fork(rng, *(f"slice {i}" for i in range(count)))
        return [({key: rows[i * size : (i + 1) * size] for key, rows in batch.items()}, sources[i]) for i in self.own]

    def _update(
        self, phase: Phase, world: World, parts: Sequence[Batch], rngs: Sequence[Generator]
    ) -> dict[str, list[Metric]]:
        """One optimiser step on the mean loss over slices; metrics of each of this worker's."""
        found: list[Mapping[str, Metric]] = []
        gradient = Pairwise()
        with self.weights.learning(phase.trains) as parameters:
            self.agreed.begin()
            for part, rng in zip(parts, rngs, strict=True):
                loss, metrics = phase.loss(world, part, rng, self.cfg)
                loss.backward()
                self.agreed.next()
                found.append({"loss": loss.detach(), "grad_norm": 0.0, **metrics})
                if self.budget.slices > 1 and not self.in_parts:
                    gradient.add(take_gradient(parameters))
            if self.in_parts:  # the mean over workers of the sums over each one's slices
                for p in parameters:
                    _ = p.grad is None or p.grad.div_(len(parts))
            elif self.budget.slices > 1:
                give_gradient(parameters, self.team.total(gradient.total()).div_(self.budget.slices))
            norm = whole(nn.utils.clip_grad_norm_(parameters, self.budget.clip))
            for name in phase.trains:
                self.optimisers[name].step()
                self.optimisers[name].zero_grad()
        for name in phase.trains:
            self.updates[name] += 1
            self.weights.follow(name, self.updates[name], self.budget.ema)
        reported: dict[str, list[Metric]] = {name: [each[name] for each in found] for name in found[0]}
        reported["grad_norm"] = [norm.detach() for _ in found]
        return reported

    def _pooled(self, metrics: Mapping[str, list[Metric]]) -> dict[str, Metric]:
        """The mean over slices of each metric; counts are added up."""
        counts = torch.tensor(self.meter.take(), dtype=torch.float64)
        if self.budget.slices == 1:
            self.counted += counts
            return {name: value for name, (value,) in metrics.items()}
        rows = [
            [torch.as_tensor(v, dtype=torch.float64, device=self.device) for v in values] for values in metrics.values()
        ]
        own = Pairwise.of([torch.stack(column) for column in zip(*rows, strict=True)])
        pooled = self.team.total(torch.cat([own, counts.to(self.device)]))
        self.counted = self.counted.to(self.device) + pooled[len(metrics) :]
        return dict(zip(metrics, pooled[: len(metrics)] / self.budget.slices, strict=True))

    def _checked(self, metrics: Mapping[str, Metric], saver: checkpoint.Saver) -> dict[str, float]:
        where, advice = f"training diverged at iteration {self.iteration}", f"{saver.told}; {ADVICE}"
        numbers = {name: float(value) for name, value in metrics.items()}
        for name, number in numbers.items():
            finite(torch.tensor(number), f"{where}: {name}", advice)
        for name in self.optimisers:
            weights = torch.stack([whole(p.detach().sum()) for p in self.weights.parameters(name)])
            finite(weights, f"{where}: weights of {name}", advice)
        return numbers


ADVICE = "lower the learning rate or the clip in params/, or look for what the reward returns there"
