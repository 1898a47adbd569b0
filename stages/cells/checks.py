"""What evaluate's parameters must hold beside their types; each is a ValueError with the parameter's address."""

from collections.abc import Sequence
from typing import Any

from stages import rewards
from stages.core.messages import at, choose
from stages.io import replicates
from stages.io.expected import Outline
from stages.io.job import Job
from stages.metrics import table as metrics
from stages.steering import Steered
from stages.steering.rewarded import rewards_of
from stages.steering.run import fits


def fits_own(asked: Steered, where: str) -> None:
    """A steering acts along the sampler that is stated beside it."""
    if asked.sampler is not None:
        with at(where):
            fits(asked.steering, asked.sampler.spec)


def is_steered(asked: Steered, job: Job, attributes: Sequence[str] | None, name: str) -> None:
    """There is such a model, and the reward can be given."""
    where = f"evaluate.steered.{name}"
    with at(where):
        replicates.stated(name)
    models = ["teacher", *(f"{stage}/{arm}" for stage in replicates.ARMED for arm in job.context[stage])]
    choose(dict.fromkeys(models), asked.of, "model", f"{where}.of")
    stated = rewards_of(asked.steering)
    if stated:
        rewards.expect(rewards.terms(stated, f"{where}.steering.reward"), attributes)


def is_an_arm(name: str, job: Job) -> None:
    """Students by that name are trained."""
    choose({replicates.split(arm)[0]: arm for arm in job.context["distill"]}, name, "arm", "evaluate.distill_nfe")


def is_measured(cfg: Any, job: Job, attributes: Sequence[str] | None) -> None:
    """Something is, and nothing under two names."""
    if attributes == () and not cfg.rewards and not cfg.metrics and not job.context["rl"]:
        raise ValueError(
            "evaluate: nothing is measured, since the verifier judges nothing; name rewards, as in "
            "+reward@evaluate.rewards.clip=clip_score, or metrics"
        )
    both = cfg.rewards.keys() & job.context["rl"].keys()
    apart = [name for name in (*cfg.rewards, *job.context["rl"]) if name.startswith("heldout_")]
    if both or apart:
        name = sorted(both)[0] if both else apart[0]
        raise ValueError(f"evaluate.rewards: {name} is also how an arm's reward is called in results; rename it")


def has_repeats(cfg: Any, name: str) -> None:
    """A metric that compares samples of one prompt has several."""
    kind, _ = metrics.chosen(cfg.metrics[name], name)
    if "repeats" in kind.NEEDS and cfg.fd_repeats < 2:
        raise ValueError(
            f"evaluate.metrics.{name}: compares samples of one prompt, and evaluate.fd_repeats={cfg.fd_repeats} draws "
            "one; raise it"
        )


def has_neighbours(cfg: Any, data: Outline) -> None:
    """Every neighbourhood has images enough."""
    for split, count in (("test", data.num_test), ("training", data.num_train)):
        if cfg.neighbours >= count:
            raise ValueError(
                f"evaluate.neighbours={cfg.neighbours}: the dataset has {count} {split} images at most, each with "
                f"{count - 1} others around it; lower it"
            )
