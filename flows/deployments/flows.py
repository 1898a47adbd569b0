"""The flows that prefect.yaml deploys: an experiment, a stage or an arm, made in a fresh clone and given to the team.

Retries: the flow has none. Its tasks own them, and try again only what may pass by its type: git and S3 that do not
answer twice, the making once (a finished unit is kept, so that goes on from there), where `fewstep run` ended with the
exit code that says so or a signal ended it. What a person must put right, such as parameters, is never tried again.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Task, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.deployments import form
from flows.deployments.setup import TAG
from flows.deployments.workspace import Checkout, only_one
from flows.pipeline import prefect_state
from flows.project.nodes import Node
from flows.runtime import errors, leases
from flows.runtime.errors import Passing

DELAY_S = 10.0


def _may_pass(_task: Any, _run: Any, state: Any) -> bool:
    return errors.passes(state.result(raise_on_failure=False))


def _step(call: Callable[..., Any], retries: int = 0, delay_s: float = DELAY_S) -> Callable[..., Any]:
    """`call` as a task of the run, which is tried again where it failed by what may pass."""
    return Task(
        call,
        name=call.__name__,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=retries,
        retry_delay_seconds=delay_s,
        retry_condition_fn=_may_pass,
        log_prints=False,
    )


@flow(name="experiment", persist_result=False, description="An experiment of params/experiment/, in a fresh clone")
@form.described
def experiment(  # noqa: PLR0913, PLR0917 (a form, not a call)
    experiment: form.Experiment = "digits",
    overrides: form.Overrides = [],  # noqa: B006 (the form's default, never changed)
    compute: form.Place = "local",
    seed: form.Seed = None,
    ref: form.Ref = "HEAD",
    push: form.Push = True,
    hours: form.Hours = 12.0,
) -> Any:
    """Make what the parameters ask for."""
    return _perform(form.words(experiment, compute, seed, overrides), None, ref, push, hours)


@flow(name="stage", persist_result=False, description="One stage and what it reads, in a fresh clone")
@form.described
def stage(  # noqa: PLR0913, PLR0917
    stage: form.Stage,
    experiment: form.Experiment = "digits",
    overrides: form.Overrides = [],  # noqa: B006
    compute: form.Place = "local",
    seed: form.Seed = None,
    ref: form.Ref = "HEAD",
    push: form.Push = True,
    hours: form.Hours = 12.0,
) -> Any:
    """Make one stage."""
    return _perform(form.words(experiment, compute, seed, overrides), Node(stage), ref, push, hours)


@flow(name="arm", persist_result=False, description="One arm of distill or rl and what it reads, in a fresh clone")
@form.described
def arm(  # noqa: PLR0913, PLR0917
    stage: form.ArmStage,
    arm: form.Arm,
    experiment: form.Experiment = "digits",
    overrides: form.Overrides = [],  # noqa: B006
    compute: form.Place = "local",
    seed: form.Seed = None,
    ref: form.Ref = "HEAD",
    push: form.Push = True,
    hours: form.Hours = 12.0,
) -> Any:
    """Make one arm."""
    return _perform(form.words(experiment, compute, seed, overrides), Node(stage, arm), ref, push, hours)


def _perform(overrides: list[str], node: Node | None, ref: str, push: bool, hours: float) -> Any:
    """The final state's message is what a person must read, without a traceback's words around it."""
    root, run, end = Path.cwd(), str(flow_run.id), time.monotonic() + hours * 3600
    log = get_run_logger()
    checkout = Checkout(root, _name(), run, lambda text: log.info("%s", text))
    worth_keeping = False
    try:
        with only_one(root, run, hours * 3600):
            _step(checkout.make, retries=2)(ref)
            _step(checkout.compose)(overrides, node)
            shares = push and checkout.remote() is not None
            if push and not shares:
                log.warning("no default DVC remote (`dvc remote add -d ...`, committed): nothing is pulled or pushed")
            if shares:
                _step(checkout.pull, retries=2)()
            worth_keeping = True
            # The leases of a making that was killed have run out by then.
            making = _step(checkout.repro, retries=1, delay_s=leases.DEAD_S + DELAY_S)
            making(overrides, node, pull=shares, limit_s=end - time.monotonic())
            pushed = _step(checkout.push, retries=2)() if shares else None
            worth_keeping = not shares
        _summarise(checkout, shares, pushed)
    except (ValueError, Passing, TimeoutError) as error:
        return Failed(message=str(error))
    finally:
        prefect_state.settle_flows(f"parent:{run}")
        if worth_keeping:
            log.info("its clone is kept: %s", checkout.folder)
        else:
            checkout.remove()
    return None


def _name() -> str:
    """Of the clone and the branch: the run's, in letters that git takes, and its own when it is retried in the UI."""
    slug = "".join(c if c.isascii() and c.isalnum() else "-" for c in flow_run.name.lower())[:60].strip("-") or "run"
    again = f"-{flow_run.run_count}" if flow_run.run_count > 1 else ""
    return f"{slug}-{str(flow_run.id)[-8:]}{again}"


def _summarise(checkout: Checkout, shares: bool, pushed: str | None) -> None:
    """What a person looks for when the run is over."""
    lines = []
    with get_client(sync_client=True) as client:
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"parent:{checkout.run}", TAG]))
        for run in client.read_flow_runs(flow_run_filter=tagged):
            lines.append(f"- flow run [{run.name}](/runs/flow-run/{run.id}): {run.state.name if run.state else ''}")
    if pushed:
        lines.append(f"- branch `{checkout.branch}`, commit `{pushed}`: `git switch` to it, then `dvc pull`")
    elif shares:
        lines.append("- nothing new: no branch was pushed")
    else:
        lines.append(f"- not shared; the results lie in `{checkout.folder}`")
    create_markdown_artifact("\n".join(lines), key="scheduled-run", description="Where the results are")
