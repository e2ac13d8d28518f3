"""X-rays and masks as SVG: sharp at any size, small, and nothing that has to be fetched.

An X-ray is written once and used by every picture of it, and so are the outlines. An outline
follows the edges of pixels: that is the mask as it is, at the model's size.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

EVEN = 'vector-effect="non-scaling-stroke"'
HEAT_SIDE = 112
"""Longest side of a heat map's picture: maps are smooth."""


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return grey (H, W) or RGBA (H, W, 4) pixels as the address of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return pixels at most `side` long."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def outline(mask: NDArray[np.bool_]) -> str:
    """Return the edges between a mask's pixels and the others as the data of an SVG path."""
    inked = np.pad(mask, 1).astype(np.int8)
    across = np.diff(inked, axis=0)[:, 1:-1] != 0
    down = (np.diff(inked, axis=1)[1:-1] != 0).T
    rows = [f"M{x} {y}h{length}" for y, x, length in _runs(across)]
    columns = [f"M{x} {y}v{length}" for x, y, length in _runs(down)]
    return "".join(rows + columns)


def _runs(edges: NDArray[np.bool_]) -> Iterable[tuple[int, int, int]]:
    """Yield (line, start, length) of every run of edges along the second axis."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    for (line, start), (_, end) in zip(starts.tolist(), ends.tolist(), strict=True):
        yield line, start, end - start


def heat_pixels(heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return a map as RGBA pixels, from 0 to its maximum; where it is low the X-ray shows."""
    top = float(np.nanmax(heat, initial=0.0))
    share = np.clip(np.nan_to_num(heat) / top, 0, 1) if top > 0 else np.zeros(heat.shape)
    colours = matplotlib.colormaps["magma"](share)
    colours[..., 3] = 0.75 * share**0.5
    return (255 * colours).round().astype(np.uint8)


def svg(shape: tuple[int, int], alt: str, layers: Iterable[str]) -> Markup:
    """Return a picture of `shape` (height, width) with its text alternative."""
    height, width = shape
    drawn = "".join(layers)
    head = f'<svg class="xray" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}"'
    return Markup(f"{head}>{drawn}</svg>")


def picture(pixels: NDArray[np.uint8], shape: tuple[int, int], name: str = "") -> str:
    """Return pixels stretched over a picture; by its name others can use them."""
    height, width = shape
    known = f' id="{name}"' if name else ""
    size = f'width="{width}" height="{height}" preserveAspectRatio="none"'
    return f'<image{known} {size} href="{data_uri(pixels)}"/>'


def definition(name: str, path: str) -> str:
    """Return an outline to be drawn by its name; its lines are as thick at any size."""
    return f'<defs><path id="{name}" d="{path}" {EVEN}/></defs>'


def again(name: str) -> str:
    """Return what was written before under a name."""
    return f'<use href="#{name}"/>'


def line(name: str, colour: str) -> str:
    """Return an outline with a dark edge, without which it vanishes on bone."""
    return f'<use href="#{name}" class="edge"/><use href="#{name}" class="line" stroke="{colour}"/>'


def cross(row: float, column: float, size: float) -> str:
    """Return a mark of a map's peak."""
    path = f"M{column - size:g} {row - size:g}l{2 * size:g} {2 * size:g}m0 {-2 * size:g}"
    path += f"l{-2 * size:g} {2 * size:g}"
    edge = f'<path class="edge" d="{path}" {EVEN}/>'
    return f'{edge}<path class="line" stroke="#fff" d="{path}" {EVEN}/>'
