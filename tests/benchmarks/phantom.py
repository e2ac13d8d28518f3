"""Drawing phantoms: images a second of one process, and of one a core."""

from __future__ import annotations

import statistics
from pathlib import Path

from chexseg_platform.data.phantom import write_phantom

from tests.benchmarks.harness import Row, compare, cores, rate_of
from tests.benchmarks.material import Place

SIZE, IMAGES, ALONE = 128, 1000, 200


def run(place: Place) -> list[Row]:
    """Draw in this process, then with all cores, whose start-up counts."""
    numbers = iter(range(1000))

    def draw(images: int, workers: int) -> float:
        folder: Path = place.folder / f"drawn-{next(numbers)}"
        return rate_of(
            images,
            lambda: write_phantom(
                folder, train=images, valid=0, test=0, size=SIZE, seed=3, workers=workers
            ),
        )

    alone = statistics.median(draw(ALONE, 1) for _ in range(3))
    return [
        Row(name="phantom, one core", ours=alone, unit="images/s"),
        compare(
            f"phantom, {cores()} cores",
            "images/s",
            lambda: draw(IMAGES, cores()),
            lambda: draw(ALONE, 1) * cores(),
            f"one process x {cores()}",
            repetitions=2,
        ),
    ]
