"""A model aligned with rewards by any algorithm of `stages/policies`: one arm is one execution of this stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from stages.core.config import config
from stages.core.messages import join, together
from stages.core.ranges import Count, Weight
from stages.core.types import Reward, Run
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.models import load
from stages.models.transformer import VelocityTransformer
from stages.models.verifier import load_verifier
from stages.policies import POLICIES
from stages.rewards import chosen, weighted
from stages.training import arm, data
from stages.training.loop import Budget, Start, Trainer
from stages.training.outcome import gather, record


@config
class Common:
    """What every RL arm states."""

    init: str
    """Artefact folder of the model to align; also the reference of its KL term."""
    rewards: dict[str, Weight]
    """Reward's name -> weight in the sum."""
    prompts_per_iteration: Count
    group_size: Annotated[int, Field(ge=2, le=10**6)]
    """Samples a prompt, to compare; an iteration rolls out prompts_per_iteration x group_size of them."""
    budget: Budget

    def __post_init__(self) -> None:
        self.budget.check_slices("prompts_per_iteration", self.prompts_per_iteration)  # a group is never cut


def configure(job: Job) -> arm.Arm[Common]:
    """The arm's section, checked against the common words and its algorithm's."""
    return arm.configure(job.section, Common, POLICIES, job.where, "RL algorithm")


def expect(cfg: arm.Arm[Common], job: Job, inputs: Inputs) -> Expected:
    """An aligned model."""
    common, dataset, init = cfg.common, outline(inputs), inputs["init"]
    together(
        lambda: init and _has_weights(common, job, init.model),
        lambda: dataset and chosen(common.rewards, dataset.attributes, join(job.where, "rewards")),
        lambda: dataset and data.enough_prompts(common.prompts_per_iteration, dataset.num_seen, job.where),
    )
    return Expected(model="trained")


def _has_weights(common: Common, job: Job, model: str | None) -> None:
    if model is None:
        raise ValueError(f"{job.where}.init={common.init}: holds no model; name data/teacher, or the folder of an arm")
    if model == "closed form":
        raise ValueError(f"{job.where}.init={common.init}: a closed form has no weights to train; name a student")


def plan(_cfg: arm.Arm[Common], _job: Job) -> list[dict[str, Any]]:
    """One unit."""
    return [{"id": "all"}]


def reward(cfg: arm.Arm[Common], job: Job) -> Reward:
    """What scores samples: a weighted sum of what the verifier sees."""
    return weighted(cfg.common.rewards, load_verifier(job.input("verifier"), job.device))


def work(cfg: arm.Arm[Common], job: Job, _unit: Mapping[str, Any], run: Run) -> None:
    """Train the policy and save it, with its sampler, to run.out/model."""
    dataset = Dataset.load(job.input("dataset"))
    model = load(job.input("init") / "model", job.device).net
    _has_weights(cfg.common, job, "trained" if isinstance(model, VelocityTransformer) else "closed form")
    start = Start(init=model, teacher=model, reward=run.reward or reward(cfg, job))
    trainer = Trainer(
        cfg.method, cfg.settings, cfg.common.budget, start, seed=job.seed, device=job.device, ranks=run.ranks
    )
    batch_at = data.groups(
        dataset,
        trainer.world.nets["student"],
        cfg.common.prompts_per_iteration,
        cfg.common.group_size,
        seed=job.seed,
        device=job.device,
    )
    outcome = trainer.run(batch_at, resume=run.resume, sink=run.sink)
    record(run.out, outcome, cfg.method.sampler(cfg.settings), cfg.common.budget.iterations)


def finish(_cfg: arm.Arm[Common], _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """The last rewards and losses of training."""
    return gather(parts[0], out)
