"""From a map or a mask to a better one, without any model: what DoLL calls boosting.

Each step is a function of arrays and is off unless the settings ask for it.

Shapes: B images, K classes, S side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def without_small(mask_BKSS: NDArray[np.bool_], smallest: float) -> NDArray[np.bool_]:
    """Return masks without their regions below a share of the frame's pixels.

    A region is what hangs together by its pixels' edges. A mask whose regions are all too small
    becomes empty: scattered pixels are no object.

    Args:
        smallest: in [0, 1); 0 changes nothing.
    """
    if smallest <= 0:
        return mask_BKSS
    least = smallest * mask_BKSS.shape[-1] ** 2
    out = np.zeros_like(mask_BKSS)
    for place in np.argwhere(mask_BKSS.any(axis=(2, 3))):
        region_SS, _ = ndimage.label(mask_BKSS[tuple(place)])
        large = np.bincount(region_SS.ravel()) >= least
        large[0] = False  # what is no region
        out[tuple(place)] = large[region_SS]
    return out


def ignore_band(
    mask_BKSS: NDArray[np.bool_], width: float, content_B4: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the pixels around each object within a share of the frame's side of it."""
    out = np.zeros_like(mask_BKSS)
    reach = max(1.0, width * mask_BKSS.shape[-1])
    for b, k in np.argwhere(mask_BKSS.any(axis=(2, 3))):
        far = ndimage.distance_transform_edt(~mask_BKSS[b, k])
        top, bottom, left, right = content_B4[b]
        inner = (slice(top, bottom), slice(left, right))
        out[b, k][inner] = ((far > 0) & (far <= reach))[inner]
    return out
