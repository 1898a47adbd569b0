"""A model aligned with rewards by any algorithm of `stages/policies`: one arm is one execution of this stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core import judging
from stages.core.config import config
from stages.core.types import Reward, Sink
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.models import load
from stages.models.transformer import VelocityTransformer
from stages.models.verifier import load_verifier
from stages.policies import POLICIES
from stages.rewards import weighted
from stages.training import arm, data
from stages.training.loop import Budget, Start, Trainer
from stages.training.outcome import gather, record


@config
class Common:
    """What every RL arm states."""

    init: str
    """Artefact folder of the model to align; also the reference of its KL term."""
    rewards: dict[str, float]
    """Reward's name -> weight in the sum."""
    prompts_per_iteration: int
    group_size: int
    """Samples a prompt; an iteration rolls out prompts_per_iteration x group_size of them."""
    budget: Budget

    def __post_init__(self) -> None:
        self.budget.check_slices("prompts_per_iteration", self.prompts_per_iteration)  # a group is never cut


def configure(job: Job) -> arm.Arm[Common]:
    """The arm's section, checked against the common words and its algorithm's."""
    return arm.configure(job.section, Common, POLICIES, job.where, "RL algorithm")


def plan(_cfg: arm.Arm[Common], _job: Job) -> list[dict[str, Any]]:
    """One unit."""
    return [{"id": "all"}]


def reward(cfg: arm.Arm[Common], job: Job) -> Reward:
    """What scores samples: a weighted sum of what the verifier sees."""
    return weighted(cfg.common.rewards, load_verifier(job.input("verifier"), job.device))


def work(cfg: arm.Arm[Common], job: Job, _unit: Mapping[str, Any], out: Path, sink: Sink) -> None:
    """Train the policy and save it, with its sampler, to out/model."""
    if cfg.common.group_size < 2:
        raise ValueError(f"{job.where}.group_size={cfg.common.group_size}: a group needs two samples to compare")
    dataset = Dataset.load(job.input("dataset"))
    model = load(job.input("init") / "model", job.device).net
    if not isinstance(model, VelocityTransformer):
        raise ValueError(f"{job.where}.init={cfg.common.init}: a closed form has no weights to train; name a student")
    start = Start(init=model, teacher=model, reward=judging.appointed() or reward(cfg, job))
    trainer = Trainer(cfg.method, cfg.settings, cfg.common.budget, start, seed=job.seed, device=job.device)
    batch_at = data.groups(
        dataset,
        trainer.world.nets["student"],
        cfg.common.prompts_per_iteration,
        cfg.common.group_size,
        seed=job.seed,
        device=job.device,
    )
    outcome = trainer.run(batch_at, resume=out / "resume", sink=sink)
    record(out, outcome, cfg.method.sampler(cfg.settings), cfg.common.budget.iterations)


def finish(_cfg: arm.Arm[Common], _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """The last rewards and losses of training."""
    return gather(parts[0], out)
