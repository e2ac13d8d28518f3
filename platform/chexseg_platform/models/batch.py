"""How many images a forward without gradients should take."""

from __future__ import annotations

import torch

GPU_BATCH = 64
CPU_PIXELS = 4 * 320**2


def forward_batch(device: torch.device, size: int, wish: int | str = "auto") -> int:
    """Return the images of a forward: 64 on a GPU, on a CPU as many as 4 of 320 x 320 pixels.

    A CPU's larger tensors are handed back to the system after every layer and come anew, page by
    page: DenseNet-121 at 320 px is a seventh slower by 64 than by 4.

    Args:
        size: pixels, the side of an image.
        wish: "auto", or a number, which is what is returned.
    """
    if not isinstance(wish, str):
        return wish
    return GPU_BATCH if device.type != "cpu" else min(GPU_BATCH, max(1, CPU_PIXELS // size**2))
