"""Parameters: what people edit in params/, composed by Hydra into one resolved params.yaml that stages read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.core.messages import brief


def compose(config_dir: Path, overrides: Sequence[str] = ()) -> str:
    """The resolved parameters as YAML text, exactly as `dvc exp run -S` writes them (a test compares the bytes).

    Raises ValueError, which names the override at fault and what would be valid.
    """
    from omegaconf import OmegaConf

    from stages.io import overrides as hydra

    try:
        cfg = hydra.composed(config_dir, overrides)
        OmegaConf.resolve(cfg)
    except hydra.REFUSALS as error:
        raise ValueError(hydra.fault(config_dir, overrides, error)) from None
    return OmegaConf.to_yaml(cfg)


def read(file: Path) -> dict[str, Any]:
    """The parameters of a run; ValueError if the file is missing or not YAML."""
    return parse(text(file), str(file))


def text(file: Path) -> str:
    """What the parameters are read from; ValueError if it is missing."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{file}: missing; write it with `fewstep compose`") from None


def parse(content: str, where: str) -> dict[str, Any]:
    """The parameters in `content`, which is YAML; ValueError if it is not."""
    try:
        found = yaml.load(content, Loader=yaml.CSafeLoader)  # ten times faster than the loader in Python
    except yaml.YAMLError as error:
        raise ValueError(
            f"{where}: not YAML ({brief(' '.join(str(error).split()))}); write it anew with `fewstep compose`"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: holds no parameters; write it anew with `fewstep compose`")
    return found
