"""How many images fit in one backward pass: a hard bound on memory, from the model itself.

What a pass holds is what autograd keeps for the way back. It grows with the images of the pass and
with nothing else, so one image tells it; a batch, the steps and the wanted classes only decide how
many passes there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

HEADROOM = 1.5
"""A pass holds gradients and the operators' scratch space besides what is kept."""


def kept_bytes(model: nn.Module, score: Callable[[Tensor], Tensor], input_1CSS: Tensor) -> int:
    """Return how many bytes one image's forward keeps for its backward, weights not counted.

    Args:
        model: whose parameters and buffers are not counted.
        score: images -> scores, through the model.
        input_1CSS: one normalised image.
    """
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Held until the end, or a later tensor could have the same address.
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = score(input_1CSS.detach().requires_grad_(True))
    del scores
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def rows_within(
    budget: int,
    model: nn.Module,
    score: Callable[[Tensor], Tensor],
    input_1CSS: Tensor,
    maps: int = 0,
) -> int:
    """Return the most images whose backward pass stays within `budget` bytes; at least 1.

    Args:
        maps: float32 maps of the image's size that are kept besides, for each image of a pass.
    """
    held = 4 * maps * input_1CSS[0, 0].numel()
    return max(1, int(budget / (HEADROOM * max(1, kept_bytes(model, score, input_1CSS)) + held)))


def budget_of(wish: float | str, device: torch.device) -> int:
    """Return the bytes a worker's passes may hold: `wish` GiB; "auto": see config.Resources."""
    if not isinstance(wish, str):
        return int(wish * 2**30)
    if device.type == "cuda":
        # Two workers share a GPU, and what both hold must leave room for maps.
        return torch.cuda.mem_get_info(device)[0] // 4
    return 2 << 30
