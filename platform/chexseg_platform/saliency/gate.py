"""What an image's labels and the classifier's probabilities allow a pseudo-mask to be.

The released CheXseg code makes a mask of every class in every image, wanted or not; here a mask
needs a reason, and a channel about which nothing is known stays out of the segmenter's loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chexseg_platform.config import Saliency
from chexseg_platform.findings import observation_places

Bools = NDArray[np.bool_]


def gate(
    labels: NDArray[np.float32], probabilities: NDArray[np.floating], settings: Saliency
) -> tuple[Bools, Bools]:
    """Return which masks may be cut, and which channels are labelled at all.

    Args:
        labels: (N, 14): 1, 0, -1, NaN.
        probabilities: (N, K), of the settings' classes.
        settings: `classes`, `gate`, `cutoff`, `uncertain`, `blank`.

    Returns:
        allowed (N, K): a mask is cut from the map.
        known (N, K): the channel is labelled; where it is not allowed, as empty.
    """
    present, absent = label_evidence(labels, settings)
    likely = probabilities >= settings.cutoff
    if settings.gate == "none":
        return np.ones_like(likely), np.ones_like(likely)
    if settings.gate == "probability":
        return likely, ~np.isnan(probabilities)
    if settings.gate == "label":
        return present, present | absent
    # A label that the classifier cannot see gives a map of something else: nothing is known.
    return present & likely, (present & likely) | absent


def label_evidence(labels: NDArray[np.float32], settings: Saliency) -> tuple[Bools, Bools]:
    """Return where the image labels say present and where they say absent: (N, K) each."""
    value = labels[:, observation_places(settings.names)]
    present, absent = value == 1, value == 0
    if settings.uncertain == "positive":
        present |= value == -1
    if settings.uncertain == "negative":
        absent |= value == -1
    if settings.blank == "negative":
        absent |= np.isnan(value)
    return present, absent
