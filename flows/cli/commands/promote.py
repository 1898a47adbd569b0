"""`fewstep promote <student>`: a candidate becomes the champion, if it passes the gate in params/registry."""

import argparse
import time

from flows.cli.output import sign


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which student, and whether to only look."""
    parser.add_argument(
        "student", help="distill@tdm1 (its candidate), or a version: distill-tdm1/3, distill-tdm1@candidate"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what holds and what does not, change nothing")


def main(parsed: argparse.Namespace) -> int:
    """Print each condition; 1 if one does not hold."""
    from flows.lineage.history import History
    from flows.lineage.promotion import Gate, findings, scored
    from flows.project import parameters
    from flows.tracking.registry import CHAMPION, Registry

    gate = Gate.of(parameters.read())
    history = History()
    if history.store is None:
        raise ValueError("nothing is registered here yet; `fewstep run` registers each student that it makes")
    registry = Registry(history.store.client)
    candidate = registry.version(_named(parsed.student))
    champion = registry.aliased(candidate.name, CHAMPION)
    print(f"{candidate.name} version {candidate.number} ({candidate.digest[:8]})")
    if champion and champion.number == candidate.number:
        print("is the champion already")
        return 0
    found = list(findings(gate, candidate, champion, history))
    for each in found:
        print(f"{sign('good' if each.holds else 'bad')} {each.condition:10} {each.words}")
    failed = [each.condition for each in found if not each.holds]
    if failed:
        raise ValueError(f"not promoted: {', '.join(failed)} {'does' if len(failed) == 1 else 'do'} not hold")
    if parsed.dry_run:
        print("would be promoted; nothing was changed")
        return 0
    score = scored(candidate, gate.metric, history)
    facts = {"metric": gate.metric, "value": f"{score.value:g}", "by": score.run, "at": time.strftime("%F %T%z")}
    registry.promote(candidate, facts | ({"over": champion.number} if champion else {}))
    print(f"is the champion now: models:/{candidate.name}@{CHAMPION}")
    return 0


def _named(student: str) -> str:
    from flows.project.nodes import Node
    from flows.tracking.registry import CANDIDATE, is_version, model_name

    if is_version(student):
        return student
    node = Node.parse(student)
    if node.arm is None:
        raise ValueError(f"{student}: only students are registered; name one, such as distill@tdm1")
    return f"{model_name(node)}@{CANDIDATE}"
