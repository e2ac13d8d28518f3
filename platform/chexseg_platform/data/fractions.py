"""A fraction of a task's training images: nested, by patient, and with every class in it.

Few images may miss a class altogether, and a segmenter cannot learn what it never sees; so first
come images that show a class which no earlier one shows, the rarest class's first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chexseg_platform.data.splits import take_images


class ClassAbsent(ValueError):
    """A class that no training image of a fraction, or of the whole task, shows."""


@dataclass(frozen=True)
class Shown:
    """An image, and the classes of which it shows at least a pixel."""

    image_id: str
    patient: str
    classes: frozenset[str]


def take_fraction(
    images: Sequence[Shown], fraction: float, seed: int, classes: Sequence[str]
) -> list[str]:
    """Return the ids of a fraction of the images, at least one.

    A smaller fraction's images are among a larger one's of the same seed.

    Args:
        fraction: in (0, 1].
        seed: of the order of patients.
        classes: each is shown by one of the images.

    Raises:
        ClassAbsent: naming the class, and what would do.
    """
    order = take_images(images, None, seed)
    count = max(1, round(fraction * len(order)))
    first: list[Shown] = []
    often = {name: sum(name in image.classes for image in order) for name in classes}
    for name in sorted(classes, key=often.__getitem__):
        if any(name in image.classes for image in first):
            continue
        found = next((image for image in order if name in image.classes), None)
        if found is None:
            raise ClassAbsent(
                f"{name} is seen on none of the {len(order)} training images: leave it out of the "
                "task's classes, or add images that show it"
            )
        first.append(found)
    if len(first) > count:
        seen = {name for image in first[:count] for name in image.classes}
        absent = [name for name in classes if name not in seen]
        raise ClassAbsent(
            f"{' and '.join(absent)} would be absent from a fraction of {fraction:.3g} of the "
            f"training images: {count} of {len(order)} cannot show every class; take at least "
            f"{math.ceil(1000 * len(first) / len(order)) / 1000:g}"
        )
    taken = {image.image_id for image in first}
    rest = [image for image in order if image.image_id not in taken]
    return [image.image_id for image in (*first, *rest)[:count]]
