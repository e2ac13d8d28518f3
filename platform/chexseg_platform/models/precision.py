"""The number format of a model's products: float32, or bfloat16 where a GPU has it."""

from __future__ import annotations

import torch


def precision(wish: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype: bfloat16 where wished, or by default on a GPU that has it.

    Args:
        wish: "auto", "float32" or "bfloat16".
    """
    if wish == "auto":
        wish = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if wish == "bfloat16" else None
