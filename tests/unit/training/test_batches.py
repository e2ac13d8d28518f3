"""Batches: rows gathered, drawn the same at every repetition."""

import numpy as np
import torch
from chexseg_platform import config
from chexseg_platform.training.augment import Augment
from chexseg_platform.training.batches import (
    augment_of,
    chunks,
    content_tensor,
    image_tensor,
    step_generator,
)

CPU = torch.device("cpu")


def test_images_and_contents_of_rows_in_their_order(tiny_store):
    rows = np.array([7, 0, 7])
    images = image_tensor(tiny_store, rows, CPU)
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(images.numpy(), tiny_store.images[rows])
    np.testing.assert_array_equal(content_tensor(tiny_store, rows, CPU), tiny_store.content[rows])
    images.zero_()  # a copy: the file on disk is not touched
    assert tiny_store.images[7].any()


def test_chunks_are_all_rows_in_order():
    assert [part.tolist() for part in chunks(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    assert chunks(np.arange(0), 2) == []


def test_generators_of_steps_workers_and_seeds_differ_and_repeat():
    places = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (2**32 - 1, 10**7, 511)]
    draws = [torch.rand(4, generator=step_generator(*place)) for place in places]
    for first in range(5):
        again = torch.rand(4, generator=step_generator(*places[first]))
        assert torch.equal(draws[first], again)
        for second in range(first):
            assert not torch.equal(draws[first], draws[second])


def test_settings_that_change_nothing_are_none():
    assert augment_of(config.Augment()) is None
    made = augment_of(config.Augment(rotate=5, flip=0.5))
    assert made == Augment(rotate=5.0, flip=0.5)
