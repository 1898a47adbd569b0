"""A model aligned with rewards by any algorithm of `stages/policies`: one arm is one execution of this stage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from stages import rewards
from stages.core.advantage import summed
from stages.core.config import config
from stages.core.messages import join, listed, together
from stages.core.needs import Needs
from stages.core.prompts import Prompt
from stages.core.ranges import Count
from stages.core.types import Reward, Run
from stages.io import sources
from stages.io.artefacts import sha256_of, write_json
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.models import load, table_of
from stages.models.mixture import GaussianMixture
from stages.models.verifier import load_verifier
from stages.policies import POLICIES
from stages.samplers.kernels import OF_VELOCITIES
from stages.samplers.program import program
from stages.samplers.spec import Sampler
from stages.training import arm, data
from stages.training import needs as training
from stages.training.budget import Budget
from stages.training.gallery import Gallery, Looking
from stages.training.heldout import distance, heldout
from stages.training.method import differentiates, distils
from stages.training.outcome import gather, record
from stages.training.roles import Start
from stages.training.stopping import Probe, Stop, Watch
from stages.training.tune import Tune, begins, fits, learns, made_of, same_base, tuning


@config
class Common:
    """What every RL arm states."""

    init: str
    """Artefact folder of the model to align; also the reference of its KL term."""
    teacher: str | None
    """Artefact folder of the many-step model that some algorithms distil beside the reward; null is that of `init`."""
    rewards: dict[str, dict[str, Any]]
    """Name -> one of `stages/rewards`, with its weight in the sum and its knobs."""
    prompts_per_iteration: Count
    group_size: Annotated[int, Field(ge=2, le=10**6)]
    """Samples a prompt, to compare; an iteration rolls out prompts_per_iteration x group_size of them."""
    sampler: Sampler | None
    """Of the finished model; null takes the algorithm's own."""
    tune: Tune
    """Which weights of the policy are trained."""
    budget: Budget
    stop: Stop | None
    """What ends it before its budget; null is nothing."""
    gallery: Gallery | None
    """Samples of the same prompts while it trains, for trackers; null shows none."""

    def __post_init__(self) -> None:
        self.budget.check_slices("prompts_per_iteration", self.prompts_per_iteration)  # a group is never cut
        if self.sampler:
            program(self.sampler.spec)  # which refuses what its folder could not repeat


def configure(job: Job) -> arm.Arm[Common]:
    """The arm's section, checked against the common words, its algorithm's and its rewards'."""
    made, terms = together(
        lambda: arm.configure(job.section, Common, POLICIES, job.where, "RL algorithm"),
        lambda: rewards.terms(job.section.get("rewards"), join(job.where, "rewards")),
    )
    _watches_a_number(made.common, terms)
    if differentiates(made.method):
        together(*(lambda term=term: _refuse(made.name, term) for term in rewards.rigid(terms)))
    if made.common.teacher is not None and not distils(made.method):
        known = listed(sorted(name for name, method in POLICIES.items() if distils(method)))
        raise ValueError(f"{join(job.where, 'teacher')}: {made.name} distils no teacher, {known} do; leave it out")
    return made


def _watches_a_number(common: Common, terms: Sequence[rewards.Term]) -> None:
    compared = [term for term in terms if rewards.compares(term)]
    if compared and common.stop and (common.stop.plateau is not None or common.stop.heldout):
        raise ValueError(
            f"{compared[0].where}: compares a group's samples, so that its mean never moves, and stop.plateau and "
            "stop.heldout would look at that; set them to null and keep stop.drift or stop.distance"
        )


def _refuse(method: str, term: rewards.Term) -> None:
    known = listed(kind for kind, module in rewards.REWARDS.items() if getattr(module, "DIFFERENTIABLE", False))
    raise ValueError(
        f"{join(term.where, 'kind')}: {method} descends the reward's own gradient, and this has none; {known} has"
    )


def expect(cfg: arm.Arm[Common], job: Job, inputs: Inputs) -> Expected | None:
    """An aligned model; None where nothing is known of what it starts from."""
    common, dataset, init = cfg.common, outline(inputs), inputs["init"]
    judge, terms = inputs["verifier"], _terms(cfg.common, job)
    together(
        lambda: init and _has_weights(common, job, init.model),
        lambda: learns(common.tune, job.where, cfg.method, cfg.settings),
        lambda: init and begins(common.tune, job.where, init),
        lambda: init and init.is_student and _knows_its_steps(cfg, job),
        lambda: common.teacher and (given := inputs["teacher"]) and _is_a_teacher(common, job, given),
        lambda: rewards.expect(terms, judge.attributes if judge else None),
        lambda: sources.few(common.rewards, rewards.MOST_SOURCES, join(job.where, "rewards")),
        lambda: dataset and data.enough_prompts(common.prompts_per_iteration, dataset.num_seen, job.where),
        lambda: dataset and arm.has_prompts(cfg, job, dataset),
        lambda: dataset and _has_heldout(common, job, dataset.num_heldout),
        lambda: dataset and judge and _has_a_distance(common, job, dataset.num_train, judge.attributes),
    )
    return made_of(init, common.tune)


def _knows_its_steps(cfg: arm.Arm[Common], job: Job) -> None:
    kernel = getattr(cfg.settings, "kernel", None)
    if kernel is not None and kernel.name in OF_VELOCITIES:
        raise ValueError(
            f"{job.where}.kernel.name={kernel.name}: {cfg.common.init} is distilled, and answers samples or velocities "
            "of paired noise, of which this is no step: its samples would not be the student's. Take kernel anchored "
            "or cps (student_grpo, student_spo, pso), or an algorithm that needs no density (reward_instruct, tdm_r1, "
            "direct)"
        )


def _is_a_teacher(common: Common, job: Job, given: Expected) -> None:
    if given.model is None:
        raise ValueError(f"{job.where}.teacher={common.teacher}: holds no model; name data/teacher")
    fits(common.tune, job.where, given)


def needs(cfg: arm.Arm[Common], job: Job, inputs: Inputs, made: Expected) -> Needs | None:
    """Of the training, but for what rewards take."""
    common, drawn = cfg.common, made.sketch
    if drawn is None:
        return None
    teacher = inputs["teacher"] if common.teacher else None
    source = drawn if teacher is None else teacher.sketch or drawn
    rows, tuned = common.prompts_per_iteration * common.group_size, tuning(common.tune, job.seed)
    return training.needs(
        cfg.method, cfg.settings, common.budget, drawn, source, tuned, rows=rows, group_size=common.group_size
    )


def _has_weights(common: Common, job: Job, model: str | None) -> None:
    if model is None:
        raise ValueError(f"{job.where}.init={common.init}: holds no model; name data/teacher, or the folder of an arm")
    if model == "closed form":
        raise ValueError(f"{job.where}.init={common.init}: a closed form has no weights to train; name a student")


def _has_heldout(common: Common, job: Job, count: int) -> None:
    if common.stop and common.stop.heldout and not count:
        raise ValueError(f"{job.where}.stop.heldout: no prompts are held out; hold some out, or set it to null")


def _has_a_distance(common: Common, job: Job, num_train: int, attributes: Sequence[str] | None) -> None:
    if common.stop and common.stop.distance and not (num_train and (attributes is None or attributes)):
        raise ValueError(
            f"{job.where}.stop.distance: looks at training images by the verifier's features, and there are no images, "
            "or verifier=none; set it to null"
        )


def plan(cfg: arm.Arm[Common], job: Job) -> list[dict[str, Any]]:
    """One unit. With pretrained rewards it is called after their bytes: nobody goes on with what others had judged."""
    weights = sources.digests(cfg.common.rewards)
    own = {"id": f"weights-{sha256_of(weights)[:16]}", "weights": weights} if weights else {"id": "all"}
    # A gradient does not come back from workers: such a reward runs where training does.
    if differentiates(cfg.method):
        return [own]
    return [{**own, "judged": "groups" if any(map(rewards.compares, _terms(cfg.common, job))) else "samples"}]


def reward(cfg: arm.Arm[Common], job: Job, _unit: Mapping[str, Any]) -> Reward:
    """What scores samples: the arm's rewards, each by itself, [B, R]."""
    return rewards.apart(_terms(cfg.common, job), rewards.Given(job.input("verifier"), job.device))


def _terms(common: Common, job: Job) -> list[rewards.Term]:
    return rewards.terms(common.rewards, join(job.where, "rewards"))


def work(cfg: arm.Arm[Common], job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """Train the policy and save it, with its sampler, to run.out/model; what judged it is told by digest beside it."""
    weights = unit.get("weights", {})
    if weights != sources.digests(cfg.common.rewards):
        raise ValueError(f"{job.where}.rewards: the weights were changed since this began; run the stage again")
    dataset = Dataset.load(job.input("dataset"))
    table = table_of(job.input("encode"), job.device, held=job.held, encode=run.encode)
    init = load(job.input("init") / "model", table, job.device)
    teacher = init.net if cfg.common.teacher is None else load(job.input("teacher") / "model", table, job.device).net
    same_base(job.where, init.net, teacher)
    _has_weights(cfg.common, job, "closed form" if isinstance(init.net, GaussianMixture) else "trained")
    judge, factors = run.reward or reward(cfg, job, unit), tuple(term.weight for term in _terms(cfg.common, job))
    start = Start(
        init=init.net, teacher=teacher, space=init.space, reward=judge, prompts=dataset.table, weights=factors
    )
    trainer = arm.trainer(cfg, start, table, job, run)
    batch_at = data.groups(
        dataset,
        cfg.common.prompts_per_iteration,
        cfg.common.group_size,
        seed=job.seed,
        device=job.device,
    )
    spec = cfg.common.sampler.spec if cfg.common.sampler else cfg.method.sampler(cfg.settings)
    sampled = replace(init, spec=spec)

    def total(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return summed(judge(images, prompts), factors)

    stop, gallery = cfg.common.stop, cfg.common.gallery
    at_once = cfg.common.prompts_per_iteration * cfg.common.group_size // cfg.common.budget.slices  # as in training
    probes: dict[str, Probe] = {}
    if stop and stop.heldout:
        probes["heldout"] = heldout(sampled, dataset, total, stop.heldout.num_samples, job.seed, at_once)
    if stop and stop.distance:
        seeing = load_verifier(job.input("verifier"), job.device)

        def features(images: Tensor) -> Tensor:
            return seeing.features(images.to(job.device))

        probes["distance"] = distance(sampled, dataset, features, stop.distance.num_samples, job.seed, at_once)
    outcome = trainer.run(
        batch_at,
        resume=run.resume,
        sink=run.sink,
        watch=stop and Watch(stop, probes),
        gallery=gallery and Looking(gallery, sampled, dataset, total, job.seed, at_once, run.show),
    )
    made = replace(init, net=outcome.student, spec=spec)
    record(run.out, outcome, made, program(spec))
    if weights:
        write_json(run.out / "rewards.json", weights)


def finish(_cfg: arm.Arm[Common], _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """The last rewards and losses of training."""
    return gather(parts[0], out)
