"""Why Hydra refuses to compose, in words for who typed an override: which one it was, what is wrong, what would do.

Hydra's own messages name neither the override nor what is valid, so the composition is tried again with one override
more at a time: one that fails is at fault, and what those before it compose into says what there is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from stages.core.messages import brief, listed, nearest, shown
from stages.io import replicates

REFUSALS = (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, AssertionError)
"""What Hydra raises for a wrong override or preset: Python's own too, as for a number where a preset's name stands, or
a key that is too long for a file's name."""
_WORDS = 300
"""Characters of Hydra's own words."""
_MADE = "trainings"
"""The section that composing makes of the others."""


def _trainings(*, _root_: DictConfig) -> DictConfig:
    """What params/config.yaml calls ${trainings:}."""
    stated = {
        name: OmegaConf.select(_root_, name) for name in ("seed", *replicates.ARMED, *replicates.TAUGHT, "evaluate")
    }
    plain = {
        name: OmegaConf.to_container(own, resolve=True) if OmegaConf.is_config(own) else own
        for name, own in stated.items()
    }
    return OmegaConf.create(replicates.trainings(plain))


OmegaConf.register_new_resolver(_MADE, _trainings, replace=True)


def composed(config_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """Everything that is composed, references between sections still open; raises one of REFUSALS."""
    with initialize_config_dir(str(config_dir.resolve()), version_base=None):
        return compose(config_name="config", overrides=list(overrides))


def fault(config_dir: Path, overrides: Sequence[str], error: Exception) -> str:
    """Why `composed`, or resolving it, raised `error`: a line for each override at fault."""
    good, faults = list[str](), list[str]()
    for override in overrides:
        try:
            composed(config_dir, [*good, override])
            good.append(override)
        except REFUSALS as refusal:
            faults.append(f"{brief(override)}: {_reason(config_dir, good, override, refusal)}")
    if not faults and isinstance(error, InterpolationResolutionError):
        faults += _unresolved(composed(config_dir, overrides))
    return "\n".join(faults) or f"params/: {_said(error)}"


def _reason(config_dir: Path, before: Sequence[str], override: str, error: Exception) -> str:
    if isinstance(error, OverrideParseException) or override.startswith("="):
        return (
            "no override as Hydra reads them: key=value, +key=value for a new key, ~key to take one away; quote what "
            "has other characters than letters, digits and -_./:"
        )
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_sweep_override():
        return "one value is wanted; a list is key=[a,b], a text with commas key='a,b'; DVC sweeps, `dvc exp run -S`"
    is_group = parsed.key_or_group in _groups(config_dir)
    if is_group and not isinstance(parsed.value(), str | list) and not parsed.is_delete():
        presets = sorted(file.stem for file in (config_dir / parsed.key_or_group).glob("*.yaml"))
        return f"{parsed.key_or_group} is made by a preset; name one: {listed(presets)}"
    if isinstance(error, MissingConfigException) and error.options:
        chosen, _, name = str(error.missing_cfg_file).rpartition("/")
        close = nearest(name, error.options)
        hint = f"did you mean {close!r}? " if close else ""
        return f"params/{chosen}/ has no preset {shown(name)}; {hint}valid: {listed(error.options)}"
    return _misplaced(composed(config_dir, before), parsed, is_group=is_group) or _said(error)


def _groups(config_dir: Path) -> set[str]:
    return {folder.relative_to(config_dir).as_posix() for folder in config_dir.glob("**/")}


def _misplaced(raw: DictConfig, parsed: Override, *, is_group: bool) -> str | None:
    """What is wrong with the key, or with its place; None if nothing is."""
    there = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    assert isinstance(there, dict)
    keys = (parsed.package or parsed.key_or_group).split(".")
    if keys[0] == _MADE:
        return f"{_MADE} is made of the other sections; set teacher..., distill.arms.<arm>... or rl.arms.<arm>..."
    depth = _depth(there, keys)
    if parsed.is_add():
        return "exists already; leave the + out" if depth == len(keys) and not parsed.is_force_add() else None
    if is_group:
        return None  # Hydra names the groups of presets that there are
    if depth == len(keys):
        return (
            _another_kind(there, keys, parsed) or _referred(raw, there, keys, parsed) or _new_below(there, keys, parsed)
        )
    parent, owner = _at(there, keys[:depth]), ".".join(keys[:depth]) or "params.yaml"
    if not isinstance(parent, Mapping):
        return f"{owner} is no mapping, it holds {shown(parent)}"
    known = [str(name) for name in parent]
    elsewhere = [name for name in _addresses(parent) if name.rpartition(".")[2] == keys[depth]]
    close = nearest(keys[depth], known) or next(iter(elsewhere), None)
    hint = f"did you mean {'.'.join([*keys[:depth], close])}? " if close else ""
    new = "" if parsed.is_delete() else f"; a new key needs a plus, +{brief('.'.join(keys))}=..."
    return f"{owner} has no {shown(keys[depth])}; {hint}valid: {listed(known)}{new}"


def _another_kind(there: Mapping[Any, Any], keys: list[str], parsed: Override) -> str | None:
    old, new = type(_at(there, keys)), type(parsed.value())
    kinds = {dict: "mapping", list: "list"}
    if old != new and old in kinds and new in kinds:
        return f"{'.'.join(keys)} is a {kinds[old]}, a {kinds[new]} cannot take its place"
    return None


def _new_below(there: Mapping[Any, Any], keys: list[str], parsed: Override) -> str | None:
    """For a mapping, whose keys are merged into those that are there."""
    old, where = _at(there, keys), ".".join(keys)
    for address in _addresses(parsed.value()):
        inside = address.split(".")
        depth = _depth(old, inside)
        if depth < len(inside):
            owner = _at(old, inside[:depth])
            known = listed(owner) if isinstance(owner, Mapping) else shown(owner)
            return f"{where} has no {brief(address)}; valid: {known}; new keys need two pluses, ++{brief(where)}=..."
    return None


def _referred(raw: DictConfig, there: Mapping[Any, Any], keys: list[str], parsed: Override) -> str | None:
    """For a key that params.yaml shows, since one above it refers to another section."""
    for depth in range(1, len(keys)):
        node = OmegaConf.select(raw, ".".join(keys[: depth - 1])) if depth > 1 else raw
        if not OmegaConf.is_interpolation(node, keys[depth - 1]):
            continue
        owner, below = ".".join(keys[:depth]), ".".join(keys[depth:])
        source = OmegaConf.to_container(node, resolve=False)[keys[depth - 1]]  # type: ignore[index]
        whole = dict(_at(there, keys[:depth]))
        if depth == len(keys) - 1:
            whole[keys[-1]] = parsed.value()
        text = json.dumps(whole, default=str).replace('"', "")
        target = str(source).strip("${}")
        return f"{owner} is what {target} is: set {target}.{below} for all that refer to it, or '{owner}={text}' alone"
    return None


def _unresolved(raw: DictConfig) -> Iterator[str]:
    """The addresses whose references lead nowhere."""
    for address in _addresses(OmegaConf.to_container(raw, resolve=False)):
        if address == _MADE:
            continue  # of what refers to nothing itself
        try:
            OmegaConf.select(raw, address)
        except OmegaConfBaseException as error:
            said = str(error).splitlines()[0][:_WORDS]
            yield f"{address}: {said}; correct the reference, ${{...}}, or the section that it names"


def _addresses(tree: Any, where: str = "") -> Iterator[str]:
    """The dotted address of every value that is no mapping."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        address = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            yield from _addresses(value, address)
        else:
            yield address


def _depth(tree: Any, keys: Sequence[str]) -> int:
    """How many of `keys`, from the first on, lead somewhere."""
    return next((i for i in range(len(keys)) if not _holds(tree, keys[: i + 1])), len(keys))


def _holds(tree: Any, keys: Sequence[str]) -> bool:
    above = _at(tree, keys[:-1])
    return isinstance(above, Mapping) and keys[-1] in above


def _at(tree: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _said(error: Exception) -> str:
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return text if len(text) <= _WORDS else f"{text[:_WORDS]}..."
