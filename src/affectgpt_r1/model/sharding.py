"""FSDP2: each process of a run holds a part of every weight; a layer is whole while it runs.

Applied here and not by accelerate, which leaves CPUs out: the same code runs on both. A sharded
model wants the same number of forward passes from every process: who is done goes on in step.
"""

import torch
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce, is_initialized
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, layers: nn.ModuleList) -> None:
    """Spread each layer's weights, and then what is left of the model, over all processes."""
    for layer in layers:
        fully_shard(layer)
    fully_shard(model)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(model, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; every process must ask. One that is whole stays as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which all processes have, as another of its shape is spread."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    mesh, placements = like.device_mesh, like.placements
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


def any_goes_on(goes_on: bool, model: nn.Module) -> bool:
    """Whether this process goes on, or where the model is sharded any of them."""
    if not (is_initialized() and is_sharded(model)):
        return goes_on
    going = torch.tensor(float(goes_on), device=next(model.parameters()).device)
    all_reduce(going, ReduceOp.MAX)
    return bool(going)
