"""Which number format a wish means on a device."""

import torch
from chexseg_platform.models.precision import precision

CPU = torch.device("cpu")


def test_a_cpu_stays_at_float32_unless_asked() -> None:
    assert precision("auto", CPU) is None
    assert precision("bfloat16", CPU) is torch.bfloat16
    assert precision("float32", CPU) is None
