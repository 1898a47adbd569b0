"""Networks whose weights the workers of one training hold in parts: torch's `fully_shard`, and what is made of it.

A block's weights are gathered while it computes and let go of afterwards; gradients come back as parts of their mean
over the workers. All workers must call the networks equally often, in one order.
"""

import copy
from collections import Counter
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

_CALLED = ("features", "fields", "beside")
"""What is called of a network besides itself."""


def blocks(net: nn.Module) -> list[nn.Module]:
    """The parts that a network repeats: the elements of its outermost lists of modules."""
    lists = [each for each in net.modules() if isinstance(each, nn.ModuleList)]
    outermost = [each for each in lists if not any(each in other.modules() for other in lists if other is not each)]
    return [block for each in outermost for block in each]


def split(net: nn.Module, device: str) -> nn.Module:
    """The network, moved to `device`, of whose weights this worker keeps its part."""
    # imported here, as most trainings have no use for what takes a second to import
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if not any(True for _ in net.parameters()):
        return net.to(device)
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    for module in _gathered_together(net):
        # let go of the outermost weights too, which a network that is only read would otherwise never gather anew
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for name in _CALLED:
        if hasattr(net, name):
            register_fsdp_forward_method(net, name)
    return net


def _gathered_together(net: nn.Module) -> list[nn.Module]:
    """Modules whose weights are gathered at once, of one type each, inner ones first: less what was named before."""
    most, _ = Counter(p.dtype for p in net.parameters()).most_common(1)[0]
    chosen = {*blocks(net), net}
    for module in net.modules():
        if any(p.dtype != most for p in module.parameters(recurse=False)):
            chosen |= {module, *_parts(module)}
    return [each for each in reversed([*net.modules()]) if each in chosen and any(True for _ in each.parameters())]


def _parts(module: nn.Module) -> list[nn.Module]:
    """What it calls: its children, or the elements of those that are lists."""
    lists = (nn.ModuleList, nn.ModuleDict)
    found = [_parts(each) if isinstance(each, lists) else [each] for each in module.children()]
    return [each for some in found for each in some]


def hollow(net: nn.Module) -> nn.Module:
    """A network like `net` without weights, for `filled`."""
    made = copy.deepcopy(net)
    for module in made.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(weight.to("meta"), requires_grad=False))
    return made


def filled(empty: nn.Module, net: nn.Module) -> nn.Module:
    """What `hollow` made, with the weights of `net`, gathered from all workers, who must all call this."""
    empty.load_state_dict({name: whole(tensor) for name, tensor in net.state_dict().items()}, assign=True)
    return empty


def whole(tensor: Tensor) -> Tensor:
    """Of a tensor that is held in parts, all of it, on every worker, who must all call this; others as they are."""
    return cast("Any", tensor).full_tensor() if _is_in_parts(tensor) else tensor


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """This worker's part of `tensor`, which every worker has, where `like` is held in parts; else all of it."""
    if not _is_in_parts(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    # without a source, each worker cuts its own part out of what it has
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _is_in_parts(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
