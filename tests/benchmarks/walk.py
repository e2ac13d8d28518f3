"""IRNet's random walk at 80 x 80 cells, ten classes: by shifted views, and by a dense matrix.

The dense way is the released CheXseg code's: for each class a transition matrix of 6400 x 6400,
squared three times. One class of it is timed and counted ten times.
"""

from __future__ import annotations

import torch
from chexseg_platform.saliency.walk import affinities, neighbours, walk
from torch import Tensor

from tests.benchmarks.harness import Row, rate_of
from tests.benchmarks.material import Place

SIDE, CLASSES, RADIUS, BETA, DOUBLINGS = 80, 10, 3, 5.0, 3


def run(place: Place) -> list[Row]:
    """Time both on one image; they give the same map."""
    generator = torch.Generator().manual_seed(0)
    heat = torch.rand(1, CLASSES, SIDE, SIDE, generator=generator)
    edge = torch.rand(1, SIDE, SIDE, generator=generator)
    walk(heat, edge)
    ours = rate_of(20, lambda: [walk(heat, edge) for _ in range(20)])
    found: list[Tensor] = []
    dense = rate_of(1, lambda: found.append(_dense(heat[:, :1], edge))) / CLASSES
    torch.testing.assert_close(walk(heat, edge)[:, :1], found[0], rtol=1e-3, atol=1e-5)
    return [
        Row(
            name="IRNet's walk, ten classes at 80 x 80",
            ours=ours,
            unit="images/s",
            peer=dense,
            peer_name="dense walk a class",
            ratio=ours / dense,
            aim=1000,
        )
    ]


def _dense(heat_BKhw: Tensor, edge_Bhw: Tensor) -> Tensor:
    cells = SIDE * SIDE
    matrix = torch.eye(cells)
    number = torch.arange(cells).view(SIDE, SIDE)
    for (down, right), weight in zip(
        neighbours(RADIUS), affinities(edge_Bhw, RADIUS)[0].pow(BETA), strict=True
    ):
        rows = slice(0, SIDE - down)
        columns = slice(max(0, -right), SIDE - max(0, right))
        near = number[rows, columns].flatten()
        far = near + down * SIDE + right
        matrix[near, far] = matrix[far, near] = weight[rows, columns].flatten()
    matrix /= matrix.sum(dim=0, keepdim=True)
    for _ in range(DOUBLINGS):
        matrix = matrix @ matrix
    start = (heat_BKhw * (1 - edge_Bhw)[:, None]).flatten(2)[0]
    return (start @ matrix).view(heat_BKhw.shape)
