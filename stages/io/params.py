"""Parameters: what people edit in params/, composed by Hydra into one resolved params.yaml that stages read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def compose(config_dir: Path, overrides: Sequence[str] = ()) -> str:
    """The resolved parameters as YAML text, exactly as `dvc exp run -S` writes them (a test compares the bytes).

    Raises ValueError with Hydra's own explanation where an override names nothing that exists.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(config_dir.resolve()), version_base=None):
            cfg = hydra_compose(config_name="config", overrides=list(overrides))
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise ValueError(f"params/: {' '.join(str(cause).split())}") from None
    return OmegaConf.to_yaml(cfg)


def read(file: Path) -> dict[str, Any]:
    """The parameters of a run; ValueError if the file is missing or not YAML."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file}: missing; write it with `fewstep compose`") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML ({error}); write it anew with `fewstep compose`") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds no parameters; write it anew with `fewstep compose`")
    return content
