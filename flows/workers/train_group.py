"""Several workers train one model: Ray Train starts them as one gang, and each runs the stage on its share of a batch.

Nothing here knows training. A worker runs the same `run_unit` as a lone one and is told its rank; the first writes the
checkpoint, the unit and the reports. No retries: a gang that lost a worker fails, and the next run goes on from the
first worker's checkpoint.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flows.project.resources import Compute
from flows.runtime.errors import Passing


@dataclass(frozen=True, kw_only=True)
class Gang:
    """Workers that start and end together."""

    workers: int
    cpus: int
    """Of each."""
    gpus: int
    """Of each."""
    place_s: float
    """How long they may wait until the cluster has room for all of them."""
    silence_s: float
    """How long a worker may wait for the others' part of a sum."""

    @classmethod
    def of(cls, compute: Compute, stage: str) -> "Gang":
        """The gang for one unit of `stage`, of one worker or more."""
        return cls(
            workers=compute.workers_of(stage),
            cpus=compute.cpus_of(stage),
            gpus=int(compute.gpus_of(stage)),
            place_s=compute.place_s,
            silence_s=compute.stall_s,
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `Gang(**that)` is the gang again."""
        return asdict(self)


def train(
    job: Mapping[str, Any], unit: Mapping[str, Any], place: str, report: str, gang: Gang, given: Mapping[str, Any]
) -> None:
    """Compute `unit` at `place` with all workers of `gang`, unless that was done before. Holds no core itself.

    All of them are `given` what works beside the unit, as words of `run.run_unit`.

    Raises what the stage raised on a worker; ValueError where they find no room, Passing where one died.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from stages.io import places

    if places.sealed(place):
        return
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(gang.place_s)
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    resources = {"CPU": float(gang.cpus)} | ({"GPU": float(gang.gpus)} if gang.gpus else {})
    told = {"job": dict(job), "unit": dict(unit), "place": place, "report": report, "given": given}
    # Ray Train wants a folder for checkpoints of its own; ours lie with the unit, so that a lone worker finds them too.
    with tempfile.TemporaryDirectory(prefix="fewstep-gang-") as scratch:
        trainer = TorchTrainer(
            rank,
            train_loop_config=told,
            torch_config=TorchConfig(backend="nccl" if gang.gpus else "gloo", timeout_s=int(gang.silence_s)),
            scaling_config=ScalingConfig(
                num_workers=gang.workers, use_gpu=bool(gang.gpus), resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=unit["id"],
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            raise _cause(error.worker_failures, str(error)) from None
        except ControllerError as error:
            raise _unplaced(error.controller_failure, gang) from None


def rank(told: Mapping[str, Any]) -> None:
    """What each worker runs, inside Ray Train."""
    import ray.train
    from ray.train.torch import get_device

    from flows.telemetry import reports, system_metrics
    from flows.telemetry.reports import reporter
    from flows.workers import collector
    from stages.core.ranks import Ranks
    from stages.io import run
    from stages.io.job import Job

    context = ray.train.get_context()
    job = Job(**told["job"])
    if job.device != "cpu":
        job = replace(job, device=str(get_device()))  # its own among those of the machine
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    if not ranks.leads:
        run.run_unit(job, told["unit"], told["place"], lambda _step, _metrics: None, ranks=ranks, **told["given"])
        return
    with collector.posted(told["report"]) as near:
        vital = system_metrics.sampled(reports.beside(Path(near), "system"), job.device)
        with vital, Path(near).open("a", encoding="utf-8") as stream:
            show = reports.painter(Path(near))
            run.run_unit(job, told["unit"], told["place"], reporter(stream), ranks=ranks, show=show, **told["given"])


def _cause(failures: Mapping[int, Exception], trace: str) -> Exception:
    """What failed first: a worker's own error, or else a worker's death, which the others see as a lost connection."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    ends = (ConnectionError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
    for error in failures.values():
        if not isinstance(error, ends):
            error.add_note(trace)
            return error
    return Passing("a worker was killed or crashed; finished units are kept, run it again to go on from there")


def _unplaced(error: Exception, gang: Gang) -> Exception:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

    if isinstance(error, WorkerGroupStartupFailedError):
        return _cause({}, "")
    if not isinstance(error, WorkerGroupStartupTimeoutError):
        return error
    each = f"{gang.cpus} CPU" + (f" and {gang.gpus} GPU" if gang.gpus else "")
    return ValueError(
        f"the cluster had no room for {gang.workers} workers of {each} each within {gang.place_s:g} s; end what holds "
        "it, lower compute.workers, or raise compute.place_s"
    )
