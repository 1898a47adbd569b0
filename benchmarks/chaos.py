"""Kill anything at random moments, and look whether what comes out is what an undisturbed run makes.

python benchmarks/chaos.py --trials 56 --seed 0 --json chaos.json

Each trial: begin `fewstep run --until trajectories` in a clone (with --stage only `fewstep stage trajectories`, what
DVC calls, which takes a third of the time), do one thing to it at a random moment, wait for the run to end (a bound),
then run it again. It holds if the first run ended with bitwise the undisturbed artefacts, or with a message and a
code that is not 0 and the second run made them; if at no time dvc.lock named anything else; if no process was left;
and if nothing took longer than the bound. Needs Linux; `disk` needs root, for a small file system.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.clones import BOUND_S, STAGES, Bench, bench, up  # noqa: E402
from stages.io import artefacts  # noqa: E402

FAULTS = ("stage", "run", "worker", "raylet", "prefect", "mlflow", "disk", "network")


@dataclass
class Trial:
    """What was done, and what came of it."""

    fault: str
    moment: float
    """Seconds after the run began."""
    struck: bool = False
    """Whether the run still ran at that moment."""
    held: bool = False
    ending: str = ""
    """How the disturbed run ended: finished, stopped with a message, or killed."""
    why: str = ""
    """What did not hold."""
    message: str = ""
    again_s: float | None = None
    """Wall clock of the second run, where one was needed."""
    again_compute_s: float | None = None
    """Seconds in which its stages computed."""


def service(made: Bench, name: str) -> psutil.Process:
    """A server's process."""
    return psutil.Process(json.loads((made.root / f".fewstep/services/{name}.json").read_text())["pid"])


def strike(made: Bench, fault: str, rng: random.Random, running: Callable[[], bool]) -> Callable[[], None] | None:
    """Do it now, or as soon as there is something to do it to; returns what undoes it, None if the run was over."""
    if fault == "network":
        network = made.network
        assert network, "only a clone with a store has a network to cut"
        network.fault("reset", 10**9)
        if rng.random() < 0.5:  # it comes back while the run still tries
            time.sleep(rng.uniform(0.2, 3.0))
            network.fault("", 0)
        return lambda: network.fault("", 0)
    if fault == "disk":
        ballast = made.root / "ballast"
        with ballast.open("wb") as stream:
            try:
                while True:
                    stream.write(bytes(2**20))
            except OSError:
                pass
        return ballast.unlink
    while running():
        victims = _victims(made, fault)
        for victim in victims:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        if victims:
            return lambda: None
        time.sleep(0.02)
    return None


def _victims(made: Bench, fault: str) -> list[psutil.Process]:
    match fault:
        case "stage":
            return made.processes(lambda line: "-m flows stage" in line)[:1]
        case "run":
            return made.processes(lambda line: "-m flows run" in line)
        case "worker":
            return made.processes(lambda line: line.startswith("ray::") and "IDLE" not in line)[:1]
        case "raylet":
            return made.processes(lambda line: line.startswith("ray::") or "/raylet/raylet" in line)
    process = service(made, fault)
    return [process, *process.children(recursive=True)]


def attempt(made: Bench, fault: str, rng: random.Random, latest: float) -> Trial:
    """One trial, struck at a random moment within `latest` seconds."""
    trial = Trial(fault, rng.uniform(0.0, latest))
    made.reset()
    up(made)
    where = {"cwd": made.root, "env": made.environment, "text": True}
    with tempfile.TemporaryFile("w+") as said:
        first = subprocess.Popen(made.command(*made.words()), stdout=said, stderr=subprocess.STDOUT, **where)
        began, undo = time.monotonic(), None
        try:
            first.wait(timeout=trial.moment)
        except subprocess.TimeoutExpired:
            undo = strike(made, fault, rng, lambda: first.poll() is None)
        try:
            first.wait(timeout=BOUND_S)
        except subprocess.TimeoutExpired:
            trial.why = f"the run hung for {BOUND_S:.0f} s"
            first.kill()
        finally:
            if undo:
                undo()
        said.seek(0)
        text = said.read()
    errors = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    trial.message = " / ".join(errors)[:300]
    trial.struck = undo is not None
    trial.ending = {0: "finished", -signal.SIGKILL: "killed"}.get(first.returncode, "stopped")
    trial.why = trial.why or _judge(made, trial, text)
    if not trial.why and trial.ending != "finished":
        _again(made, trial)
    trial.held = not trial.why
    print(
        f"{fault:8} at {trial.moment:5.1f} s: {trial.ending} after {time.monotonic() - began:.0f} s"
        + (f", again {trial.again_s:.0f} s" if trial.again_s else "")
        + ("" if trial.struck else ", not struck")
        + ("" if trial.held else f"  NOT HELD: {trial.why}")
        + (f"  ({trial.message[:140]})" if trial.message else ""),
        flush=True,
    )
    return trial


def _judge(made: Bench, trial: Trial, text: str) -> str:
    """What is wrong after the disturbed run; empty if nothing is."""
    wrong = _false_records(made)
    if wrong:
        return wrong
    if trial.ending == "finished":
        return "" if made.digests() == made.truth else "it finished with another artefact"
    if trial.ending == "stopped" and (not trial.message or "Traceback" in text):
        return f"it stopped without a clear message: {text[-300:]}"
    return "" if trial.struck else "nothing was done to it, and it failed"


def _false_records(made: Bench) -> str:
    """A stage that dvc.lock calls made, and is not."""
    recorded = yaml.safe_load((made.root / "dvc.lock").read_text())["stages"]
    for stage in made.stages:
        folder = made.root / "data" / stage
        if stage in recorded:
            try:
                artefacts.verify(folder)
            except ValueError as error:
                return f"dvc.lock calls {stage} made: {error}"
            if artefacts.digest(folder) != made.truth[stage]:
                return f"dvc.lock calls {stage} made, with another artefact"
    return ""


def _again(made: Bench, trial: Trial) -> None:
    began = time.time()
    try:
        done = made.call(*made.words())
    except subprocess.TimeoutExpired:
        trial.why = f"the second run hung for {BOUND_S:.0f} s"
        return
    trial.again_s = time.time() - began
    if done.returncode:
        trial.why = f"the second run failed: {done.stderr[-400:]}"
    elif made.digests() != made.truth:
        trial.why = "the second run made another artefact"
    else:
        records = [json.loads((made.root / f"data/lineage/{stage}.json").read_text()) for stage in made.stages]
        spans = [span for record in records for span in record["spans"] if span["start"] > began]
        trial.again_compute_s = sum(span["end"] - span["start"] for span in spans)
        left = made.processes(lambda line: "-m flows run" in line or "-m flows stage" in line or "-m dvc" in line)
        trial.why = f"processes were left: {[each.cmdline() for each in left]}" if left else ""


def summary(trials: Sequence[Trial], undisturbed: dict[str, float]) -> str:
    """A table in Markdown."""
    lines = [
        "| what was struck | trials | held | finished at once | second run, s (median, most) | computed again, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for fault in sorted({trial.fault for trial in trials}, key=FAULTS.index):
        mine = [trial for trial in trials if trial.fault == fault]
        again = [trial.again_s for trial in mine if trial.again_s]
        compute = [trial.again_compute_s for trial in mine if trial.again_compute_s is not None]
        lines.append(
            f"| {fault} | {len(mine)} | {sum(trial.held for trial in mine)} | "
            f"{sum(trial.ending == 'finished' for trial in mine)} | "
            + (f"{statistics.median(again):.0f}, {max(again):.0f} | " if again else " | ")
            + (f"{statistics.median(compute):.1f} |" if compute else " |")
        )
    held = sum(trial.held for trial in trials)
    lines.append("")
    lines.append(
        f"{held} of {len(trials)} held; undisturbed: {undisturbed['seconds']:.0f} s, of which "
        f"{undisturbed['compute_s']:.1f} s computed"
    )
    return "\n".join(lines)


def trials_of(made: Bench, faults: Sequence[str], rng: random.Random) -> list[Trial]:
    """One trial of each fault, struck while the run lasts."""
    done = list[Trial]()
    for fault in faults:
        trial = attempt(made, fault, rng, 0.95 * made.seconds)
        while trial.held and not trial.struck:  # it came too late: sooner, and not counted
            trial = attempt(made, fault, rng, 0.7 * trial.moment)
        done.append(trial)
    return done


def run(
    faults: Sequence[str], trials: int, seed: int, stages: tuple[str, ...] = STAGES
) -> tuple[list[Trial], dict[str, float]]:
    """`trials` trials, the faults in turn; `disk` on a small file system, `network` on a store."""
    rng, done, undisturbed = random.Random(seed), list[Trial](), dict[str, float]()
    order = [faults[i % len(faults)] for i in range(trials)]
    for special in ((), ("disk",), ("network",)):
        mine = [fault for fault in order if (fault in special if special else fault not in ("disk", "network"))]
        if not mine:
            continue
        with (
            tempfile.TemporaryDirectory(prefix="fewstep-chaos-") as folder,
            bench(Path(folder), store="network" in mine, small_disk="disk" in mine, mlflow="mlflow" in mine) as made,
        ):
            up(made)
            made.stages = stages
            made.prepare(2)
            undisturbed = undisturbed or {"seconds": made.seconds, "compute_s": made.compute_s}
            print(f"undisturbed: {made.seconds:.1f} s, {made.compute_s:.1f} s computed", flush=True)
            done += trials_of(made, mine, rng)
    return done, undisturbed


def main() -> int:
    """1 if a trial did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=56)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", action="store_true", help="strike one stage instead of a pipeline run")
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    faults = [fault for fault in parsed.faults.split(",") if not (parsed.stage and fault == "run")]
    stages = STAGES[-1:] if parsed.stage else STAGES
    trials, undisturbed = run(faults, parsed.trials, parsed.seed, stages=stages)
    print(summary(trials, undisturbed))
    if parsed.json:
        parsed.json.write_text(json.dumps({"undisturbed": undisturbed, "trials": list(map(asdict, trials))}, indent=1))
    return 0 if all(trial.held for trial in trials) else 1


if __name__ == "__main__":
    sys.exit(main())
