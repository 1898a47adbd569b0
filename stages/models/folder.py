"""Reading a pretrained network of transformers from a folder: local files and safetensors only, no remote code.

Or from one file of weights under names that were chosen elsewhere: `weights`, `assembled`, `stacked` and
`nothing_left`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.messages import brief, listed
from stages.core.pretrained import Pretrained


def read(kind: Any, given: Pretrained, **settings: Any) -> Any:
    """What `kind`, a class of transformers, makes of the folder; ValueError, in one line, where it can make nothing."""
    from safetensors import SafetensorError

    folder = given.place
    if hasattr(kind, "forward"):  # a network, not what prepares its input
        _require(given)
    try:
        return kind.from_pretrained(folder, local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        said = brief(" ".join(str(error).split()))
        raise ValueError(f"{given.source}: {kind.__name__} cannot read it ({said})") from error


def weights(given: Pretrained, name: str) -> dict[str, Tensor]:
    """The content of a safetensors file, or of the one called `name` in a folder; ValueError where there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = given.place / name if given.place.is_dir() else given.place
    if not file.is_file():
        names = listed(sorted(each.name for each in given.place.iterdir()))
        raise ValueError(f"{given.source}: {name} is missing (it has {names}); nothing is unpickled, convert it")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{given.source}: no safetensors file that can be read ({error})") from None


def assembled(
    kind: Any,
    cfg: Any,
    content: dict[str, Tensor],
    called: Callable[[str], str],
    source: str,
    dtype: torch.dtype,
    **options: Any,
) -> Any:
    """A frozen `kind(cfg, **options)`, a network of transformers, with weights out of `content`, which loses them.

    `called` says how the file calls a weight of the network. ValueError where one is missing or has another shape.
    """
    with torch.device("meta"):
        state = _taken(kind(cfg, **options), content, called, source)
    made = kind.from_pretrained(None, config=cfg, state_dict=state, dtype=dtype, **options)
    return made.eval().requires_grad_(False)


def stacked(layers: Callable[[], nn.Module], content: dict[str, Tensor], prefix: str, source: str) -> nn.Module:
    """The same of plain layers, in float32."""
    with torch.device("meta"):
        net = layers()
    state = _taken(net, content, lambda name: prefix + name, source)
    net.load_state_dict({name: weight.float() for name, weight in state.items()}, assign=True)
    return net.eval().requires_grad_(False)


def _taken(net: nn.Module, content: dict[str, Tensor], called: Callable[[str], str], source: str) -> dict[str, Tensor]:
    shapes = {name: weight.shape for name, weight in net.state_dict().items()}
    missing = [called(name) for name in shapes if called(name) not in content]
    if missing:
        raise ValueError(f"{source}: lacks {listed(missing)}")
    wrong = [
        f"{called(name)} {list(content[called(name)].shape)} where {list(shape)} was expected"
        for name, shape in shapes.items()
        if content[called(name)].shape != shape
    ]
    if wrong:
        raise ValueError(f"{source}: other shapes: {listed(wrong)}")
    return {name: content.pop(called(name)) for name in shapes}


def nothing_left(content: Mapping[str, Tensor], source: str) -> None:
    """ValueError where a file has weights that no network took."""
    if content:
        raise ValueError(f"{source}: has weights that are unknown: {listed(sorted(content))}")


def _require(given: Pretrained) -> None:
    if not (given.place / "config.json").is_file():
        raise ValueError(f"{given.source}: no network of transformers; config.json is missing")
    if not any(given.place.glob("*.safetensors")):
        names = listed(sorted(file.name for file in given.place.iterdir()))
        raise ValueError(
            f"{given.source}: no weights as safetensors (it has {names}); nothing is unpickled, convert them"
        )
