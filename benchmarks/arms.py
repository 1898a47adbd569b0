"""What benches of arms tell alike: rows of evaluate's metrics, numbers with their spread, claims and their verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.pages import line
from stages.core import trainings
from stages.core.trainings import Spread, spread

Numbers = Mapping[str, float]
Claim = tuple[str, tuple[str, int], tuple[str, int]]
"""In words, the arm that is said to do better with its calls, and the one that it is held against."""
DISTANCE, SCORE = "frechet_distance", "score_heldout"


@dataclass(frozen=True)
class Row:
    """One way of sampling one method's trainings, or the teacher."""

    name: str
    group: str
    numbers: Numbers

    @property
    def nfe(self) -> int:
        """Network calls a sample, a guided one counted once."""
        return int(self.numbers["nfe"])


def rows_of(metrics: Mapping[str, Mapping[str, Numbers]], groups: Sequence[str]) -> Iterator[Row]:
    """Of data/evaluate/metrics.json, a method's trainings together."""
    for group in groups:
        for name, numbers in metrics.get(group, {}).items():
            if "trainings" in numbers:  # else it is one training of several
                yield Row(name.partition(".")[0], group, numbers)


def spread_of(numbers: Numbers, name: str) -> Spread | None:
    """What is known of a number over trainings; None of a single one."""
    if numbers["trainings"] < 2:
        return None
    return Spread(mean=numbers[name], deviation=numbers[f"{name}_trainings_deviation"], count=int(numbers["trainings"]))


def told(numbers: Numbers, name: str) -> str:
    """A number with Student's 95 % interval over trainings, where there are several."""
    value = numbers.get(name)
    if value is None:
        return ""
    digits, around = 2 if name == DISTANCE else 3, reach(numbers, name)
    return f"{value:.{digits}f}" + (f" ± {around:.{digits}f}" if around is not None else "")


def reach(numbers: Numbers, name: str) -> float | None:
    """From the mean to an end of that interval; None of a single training."""
    low = numbers.get(f"{name}_trainings_low")
    return None if low is None else numbers[name] - low


def with_spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """A number of one's own making, one value a training, under the names that evaluate gives its own."""
    found = {name: sum(values) / len(values)}
    if len(values) > 1:
        around = spread(values)
        found |= {f"{name}_trainings_deviation": around.deviation, f"{name}_trainings_low": around.low}
    return found


def claims(
    rows: Sequence[Row], found: Sequence[Claim], number: str, *, least: bool, steady: Sequence[Claim] = ()
) -> str:
    """A table: what papers claim, held against a number of this bench, which is best where it is `least` or most.

    Of `steady` the claim is that trainings differ less. There is one teacher, so that its number is known.
    """
    lines = [line(["claim", "held against each other", "verdict here"]), line(["---"] * 3)]
    by_name = {("teacher", row.nfe): row.numbers for row in rows if row.group == "teacher"}
    by_name |= {(row.name, row.nfe): row.numbers for row in rows if row.group in ("distill", "rl")}
    for words, better, worse in (*found, *steady):
        if better not in by_name or worse not in by_name:
            continue
        ours, theirs = by_name[better], by_name[worse]
        against = " against ".join(
            f"{name} at {nfe}: {told(numbers, number)}" for (name, nfe), numbers in ((better, ours), (worse, theirs))
        )
        if (words, better, worse) in steady:
            said = steadier(ours, theirs, number)
        else:
            said = verdict(ours, theirs, number, least=least, known=worse[0] == "teacher")
        lines.append(line([words, against, said]))
    return "\n".join(lines)


def verdict(ours: Numbers, theirs: Numbers, number: str, *, least: bool, known: bool = False) -> str:
    """Whether ours is better, by Welch's test on the spreads over trainings; by Student's where theirs is `known`."""
    mine = spread_of(ours, number)
    if mine and known:
        words = trainings.said(trainings.student(mine, theirs[number]), f"over {mine.count} trainings")
    else:
        words = trainings.compared(mine, spread_of(theirs, number))
    return _judged(words, (ours[number] < theirs[number]) is least)


def steadier(ours: Numbers, theirs: Numbers, number: str) -> str:
    """Whether our trainings differ less, by Fisher's test."""
    mine, other = spread_of(ours, number), spread_of(theirs, number)
    if not mine or not other:
        return trainings.compared(mine, other)
    deviations = f"of deviations {mine.deviation:.2g} and {other.deviation:.2g}"
    return _judged(trainings.said(trainings.fisher(mine, other), deviations), mine.deviation < other.deviation)


def _judged(words: str, is_better: bool) -> str:
    return f"{'holds' if is_better else '**fails**'}: they {words}" if words.startswith("differ") else words
