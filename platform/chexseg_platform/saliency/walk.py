"""Random walk of saliency maps over an image's boundaries (IRNet, Ahn et al. 2019, section 5).

Heat spreads from cell to cell as far as no boundary lies between: the affinity of two cells is
one minus the strongest boundary on the line that joins them, and only cells nearer than a radius
are joined. Its powers make the walker shy; its columns sum to one.

The transition depends on the image alone, not on the class, and is symmetric but for the columns'
sums. So nothing of size (h w)^2 is built: a step is one multiply-add a neighbour, for all classes
and images at once, by shifted views. At 80 x 80 cells, radius 3, eight steps and ten classes
that is 1.2e7 multiply-adds an image, where three products of a dense matrix a class (the released
CheXseg code) take 7.9e12.

Shapes: B images, K classes, h x w cells, N neighbours in one half plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

Offset = tuple[int, int]


def neighbours(radius: int) -> list[Offset]:
    """Return the offsets (down, right) of one half plane that are nearer than `radius` cells."""
    return [
        (down, right)
        for down in range(radius)
        for right in range(-radius + 1, radius)
        if (down, right) > (0, 0) and down**2 + right**2 < radius**2
    ]


def path(offset: Offset) -> list[Offset]:
    """Return the cells between a cell and its neighbour, both included.

    Those of their rectangle that lie nearer than one cell to the line through both.
    """
    down, right = offset
    rows = range(min(0, down), max(0, down) + 1)
    columns = range(min(0, right), max(0, right) + 1)
    return [
        (row, column)
        for row in rows
        for column in columns
        if (row * right - column * down) ** 2 < down**2 + right**2
    ]


def affinities(edge_Bhw: Tensor, radius: int) -> Tensor:
    """Affinity of every cell with its neighbours of one half plane.

    Args:
        edge_Bhw: floating, strength of the boundary at each cell, 0 to 1.

    Returns:
        (B, N, h, w) in [0, 1], of the cell and the one that `neighbours(radius)` says; 0 where
        that one lies outside.
    """
    offsets = neighbours(radius)
    affinity_BNhw = edge_Bhw.new_zeros((len(edge_Bhw), len(offsets), *edge_Bhw.shape[1:]))
    for number, near, _ in windows(radius, *edge_Bhw.shape[1:]):
        affinity_BNhw[:, number][near] = 1 - strongest(edge_Bhw, offsets[number])
    return affinity_BNhw


def windows(radius: int, height: int, width: int) -> Iterator[tuple[int, tuple, tuple]]:
    """Yield, for each offset within the grid, its number and the two windows that it joins.

    Windows are indices into the last two dimensions; cells at the same place in both are
    neighbours.
    """
    for number, (down, right) in enumerate(neighbours(radius)):
        if down >= height or abs(right) >= width:
            continue
        near = (..., slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        far = (..., slice(down, height), slice(max(0, right), width - max(0, -right)))
        yield number, near, far


def strongest(value_Bhw: Tensor, offset: Offset) -> Tensor:
    """Return the largest value between the cells of each pair that an offset joins.

    Differentiable: the gradient goes to the cell that holds the maximum, one of them if several
    do. The offset lies within the grid; the pairs are those of `windows`.

    Returns:
        (B, h - down, w - |right|).
    """
    views = _along(value_Bhw, offset)
    if not value_Bhw.requires_grad:
        return reduce(torch.maximum, views)
    # Only where the maximum lies is kept for the backward pass, and not the path's cells.
    with torch.no_grad():
        place = torch.stack(views).max(dim=0, keepdim=True).indices
        cells = torch.arange(value_Bhw[0].numel(), device=value_Bhw.device)
        along = torch.stack(_along(cells.view(1, *value_Bhw.shape[1:]), offset))
        cell_Bhw = along.expand(-1, len(value_Bhw), -1, -1).gather(0, place)[0]
    return value_Bhw.flatten(1).gather(1, cell_Bhw.flatten(1)).view_as(cell_Bhw)


def _along(value_Bhw: Tensor, offset: Offset) -> list[Tensor]:
    """Return, for each cell of a path, the view of what lies there for every pair."""
    down, right = offset
    height, width = value_Bhw.shape[1] - down, value_Bhw.shape[2] - abs(right)
    left = max(0, -right)
    return [
        value_Bhw[:, row : row + height, left + column : left + column + width]
        for row, column in path(offset)
    ]


@torch.no_grad()
def walk(
    heat_BKhw: Tensor, edge_Bhw: Tensor, *, radius: int = 3, beta: float = 5.0, steps: int = 8
) -> Tensor:
    """Spread maps up to an image's boundaries.

    The defaults are CheXseg's (three doublings are eight steps).

    Args:
        heat_BKhw: floating maps, at least 0.
        edge_Bhw: boundary of each cell, 0 to 1.
        radius: cells nearer than this are joined.
        beta: power of the affinities.
        steps: of the walk.

    Returns:
        float32 (B, K, h, w): heat times (1 - edge), walked.

    Raises:
        ValueError: on shapes that differ, edges outside [0, 1], or settings below 1.
    """
    _check(heat_BKhw, edge_Bhw, radius, beta, steps)
    power_BNhw = affinities(edge_Bhw.float(), radius).pow_(beta)
    sum_B1hw = torch.ones_like(edge_Bhw, dtype=torch.float32)[:, None]
    for near, far, weight in _joined(power_BNhw, radius):
        sum_B1hw[near] += weight
        sum_B1hw[far] += weight
    now = heat_BKhw.float() * (1 - edge_Bhw.float())[:, None]
    for _ in range(steps):
        after = now.clone()
        for near, far, weight in _joined(power_BNhw, radius):
            after[near].addcmul_(now[far], weight)
            after[far].addcmul_(now[near], weight)
        now = after.div_(sum_B1hw)
    return now


def _joined(power_BNhw: Tensor, radius: int) -> Iterator[tuple[tuple, tuple, Tensor]]:
    """Yield, for each offset, the two windows of cells that it joins, and their weights."""
    for number, near, far in windows(radius, *power_BNhw.shape[2:]):
        yield near, far, power_BNhw[:, number : number + 1][near]


def _check(heat: Tensor, edge: Tensor, radius: int, beta: float, steps: int) -> None:
    if heat.ndim != 4 or edge.shape != (heat.shape[0], *heat.shape[2:]):
        raise ValueError(
            f"Boundaries of shape {tuple(edge.shape)} do not fit maps of shape "
            f"{tuple(heat.shape)}: (B, h, w) and (B, K, h, w) are wanted."
        )
    if radius < 2 or beta <= 0 or steps < 0:
        raise ValueError("The walk needs a radius of 2 or more, beta above 0 and steps from 0.")
    if edge.numel() and not bool(((edge >= 0) & (edge <= 1)).all()):
        raise ValueError("Boundaries lie between 0 and 1.")
