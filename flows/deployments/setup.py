"""What a Prefect server needs to run this project: work pool, GPU limit, the watch for dead runs, deployments."""

import sys
from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.workers.process import ProcessWorker

from flows.runtime import processes
from flows.workers.gpu_limit import LIMIT

POOL = "fewstep"
WATCH = "fewstep: dead runs"
TAG = "fewstep"
"""On every flow run that has a heartbeat of ours."""
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled")
_BEAT = "prefect.flow-run.heartbeat"


def prepare(num_gpus: int) -> None:
    """Create or bring up to date everything but the deployments."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        if num_gpus:  # a limit of none would never let anything through
            client.upsert_global_concurrency_limit_by_name(LIMIT, num_gpus)
        wanted, there = watch(heartbeat_s()), client.read_automations_by_name(WATCH)
        if there:
            client.update_automation(there[0].id, wanted)
        else:
            client.create_automation(wanted)


def heartbeat_s() -> float:
    """Seconds between two signs of life of a flow run, as this process's settings have it."""
    return float(PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() or 180)


def watch(beat_s: float) -> AutomationCore:
    """A run that gave a sign of life and then, for three beats, neither another nor an end, is set to Crashed."""
    within = timedelta(seconds=3 * beat_s)
    return AutomationCore(
        name=WATCH,
        description="A run whose process or machine has died is shown as Crashed, not as running for ever.",
        enabled=True,
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},  # type: ignore[arg-type]
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}"},  # type: ignore[arg-type]
            after={_BEAT},
            expect={_BEAT, *(f"prefect.flow-run.{name}" for name in _ENDS)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message=f"no sign of life for {within.total_seconds():.0f} s: its process or its machine has died; "
                "run it again, it goes on from what was finished",
                force=False,
            )
        ],
    )


def deploy() -> None:
    """Everything in prefect.yaml; ValueError with Prefect's words if it refuses."""
    command = (sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all")
    try:
        processes.ask(*command, environment={"COLUMNS": "1000"}, limit_s=300)  # else it breaks its message into lines
    except processes.NoAnswer as error:
        raise ValueError(f"prefect.yaml was not deployed: {error}") from None
