"""Whether a candidate may become the champion: each condition, what was found, and whether it holds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.lineage import verify
from flows.lineage.history import History
from flows.lineage.verify import Entry
from flows.project.nodes import Node
from flows.tracking import evaluations, records
from flows.tracking.registry import Version
from stages.core.config import check, config
from stages.core.ranges import NonNegative
from stages.core.trainings import Spread, compared


@config
class Gate:
    """The section `registry` of the parameters."""

    metric: str
    higher_is_better: bool
    tolerance: NonNegative
    """How much worse than the present champion a candidate may score."""
    same_judge: bool
    clean_git: bool

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Gate":
        """Checked; ValueError names what is wrong in it."""
        return check(cls, params.get("registry"), "registry")


@dataclass(frozen=True)
class Finding:
    """One condition and what came of it."""

    condition: str
    words: str
    holds: bool


@dataclass(frozen=True)
class Scored:
    """What one version reached in the evaluation that scored its very digest."""

    value: float
    run: str
    judge: str
    nfe: str
    over: Spread | None
    """Over all trainings of its arm; None where it is the only one."""

    @property
    def words(self) -> str:
        """The arm's, beside the version's own value."""
        if self.over is None:
            return "n = 1 training"
        found = self.over
        return f"n = {found.count} trainings: {found.mean:.4g}, {found.low:.4g} to {found.high:.4g}"


def findings(gate: Gate, candidate: Version, champion: Version | None, history: History) -> Iterator[Finding]:
    """Every condition in turn; none is left out because another failed."""
    record = history.find(Node.parse(candidate.student), candidate.digest, candidate.run)
    if record is None:
        yield Finding("lineage", f"MLflow run {candidate.run} left no record", holds=False)
        entries: list[Entry] = []
    else:
        entries = list(verify.verify_version(record, history.find))
        faults = [f"{entry.name}: {fault}" for entry in entries for fault in entry.faults]
        yield Finding("lineage", faults[0] if faults else f"{len(entries)} artefacts back to the data hold", not faults)
    if gate.clean_git:
        yield _clean_git(entries)
    yield from _score(gate, candidate, champion, history)


def _clean_git(entries: Sequence[Entry]) -> Finding:
    """It holds only where git has said so of every artefact."""
    missing = [f"{each.name}: no record" for each in entries if each.record is None]
    faults = missing + [
        f"{each.name}: {fault}" for each in entries if each.record and (fault := records.uncommitted(each.record))
    ]
    words = "; ".join(faults) if entries else "there is no record to look into"
    return Finding("clean git", words or "committed code made all of it", holds=bool(entries) and not faults)


def _score(gate: Gate, candidate: Version, champion: Version | None, history: History) -> Iterator[Finding]:
    try:
        mine = scored(candidate, gate.metric, history)
    except ValueError as error:
        yield Finding("evaluated", str(error), holds=False)
        return
    yield Finding(
        "evaluated", f"{gate.metric} {mine.value:.4g} at {mine.nfe} NFE, by run {mine.run}; {mine.words}", holds=True
    )
    if champion is None:
        yield Finding("champion", "there is none yet to be better than", holds=True)
        return
    try:
        theirs = scored(champion, gate.metric, history, mine.judge if gate.same_judge else None)
    except ValueError as error:
        yield Finding("champion", str(error), holds=False)
        return
    gain = mine.value - theirs.value if gate.higher_is_better else theirs.value - mine.value
    words = f"version {champion.number} has {theirs.value:.4g} at {theirs.nfe} NFE; this one is "
    words += f"{abs(gain):.4g} {'better' if gain > 0 else 'worse'}" if gain else "equal"
    words += f"; {gate.tolerance:g} worse is allowed; its {theirs.words}; {compared(mine.over, theirs.over)}"
    yield Finding("champion", words, holds=gain >= -gate.tolerance)


def scored(version: Version, metric: str, history: History, judge: str | None = None) -> Scored:
    """The newest score of the version's own digest, by `judge` if one is given; ValueError where there is none."""
    assert history.store is not None
    runs = evaluations.found(*history.store, version.student, version.digest)
    if not runs:
        raise ValueError(
            f"no evaluation scored version {version.number} ({version.digest[:8]}); `fewstep run` scores the version "
            "that data/ holds"
        )
    fit = [run for run in runs if judge is None or run.data.tags.get(evaluations.JUDGE) == judge]
    if not fit:
        raise ValueError(
            f"version {version.number} was never scored on the same dataset, by the same verifier and settings; score "
            "it so, or set registry.same_judge=false to compare all the same"
        )
    newest = fit[0]
    value = newest.data.metrics.get(evaluations.metric_of(metric))
    if value is None:
        names = ", ".join(sorted(key.partition("/")[2] for key in newest.data.metrics))
        raise ValueError(f"registry.metric={metric}: evaluate does not measure it; it measures {names}")
    return Scored(
        value,
        newest.info.run_id,
        newest.data.tags.get(evaluations.JUDGE, ""),
        newest.data.params.get("nfe", "?"),
        evaluations.over_trainings(newest, metric),
    )
