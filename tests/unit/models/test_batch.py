"""Images a forward: by the machine, the size and the wish."""

import torch
from chexseg_platform.models.batch import forward_batch


def test_batches_follow_the_size_on_a_cpu_and_a_wish_anywhere() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [forward_batch(cpu, size) for size in (64, 80, 128, 320, 512, 2000)] == [
        64, 64, 25, 4, 1, 1,
    ]  # fmt: skip
    assert forward_batch(gpu, 320) == 64
    assert forward_batch(cpu, 2000, 7) == forward_batch(gpu, 64, 7) == 7
