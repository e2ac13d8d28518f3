"""The walk against a dense transition matrix, built cell by cell, and against answers by hand."""

import itertools

import pytest
import torch
from chexseg_platform.saliency.walk import affinities, neighbours, path, strongest, walk, windows
from torch import Tensor


def dense(edge_hw: Tensor, radius: int, beta: float) -> Tensor:
    """The transition as IRNet defines it: all pairs, powers, columns that sum to one."""
    height, width = edge_hw.shape
    cells = list(itertools.product(range(height), range(width)))
    matrix = torch.zeros(len(cells), len(cells), dtype=torch.float64)
    for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(cells), enumerate(cells)):
        if (v - y) ** 2 + (u - x) ** 2 >= radius**2:
            continue
        between = [
            edge_hw[a, b].item()
            for a in range(min(y, v), max(y, v) + 1)
            for b in range(min(x, u), max(x, u) + 1)
            if i == j or ((a - y) * (u - x) - (b - x) * (v - y)) ** 2 < (v - y) ** 2 + (u - x) ** 2
        ]
        matrix[i, j] = 1.0 if i == j else (1 - max(between)) ** beta
    return matrix / matrix.sum(dim=0, keepdim=True)


@pytest.mark.parametrize(("shape", "radius"), [((5, 7), 3), ((6, 4), 2), ((7, 6), 5), ((2, 3), 5)])
def test_equals_the_dense_walk(shape: tuple[int, int], radius: int) -> None:
    generator = torch.Generator().manual_seed(radius)
    edge_Bhw = torch.rand(2, *shape, generator=generator) ** 2
    heat_BKhw = torch.rand(2, 3, *shape, generator=generator)
    found = walk(heat_BKhw, edge_Bhw, radius=radius, beta=5, steps=8)
    for image in range(2):
        power = torch.linalg.matrix_power(dense(edge_Bhw[image].double(), radius, 5), 8)
        start = (heat_BKhw[image] * (1 - edge_Bhw[image])).double().flatten(1)
        expected = (start @ power).reshape(3, *shape).float()
        torch.testing.assert_close(found[image], expected, rtol=1e-5, atol=1e-6)


def test_without_boundaries_heat_spreads_evenly_in_the_end() -> None:
    # Where no boundary is, the chain is symmetric but for the borders' sums; its resting state is
    # proportional to them, whatever the start.
    edge = torch.zeros(1, 4, 4)
    one, other = torch.zeros(2, 1, 1, 4, 4)
    one[0, 0, 0, 0] = other[0, 0, 3, 2] = 1.0
    found = [walk(heat, edge, radius=2, beta=1, steps=400) for heat in (one, other)]
    assert torch.allclose(found[0] / found[0].sum(), found[1] / found[1].sum(), atol=1e-6)


def test_a_wall_keeps_the_heat_on_its_side() -> None:
    edge = torch.zeros(1, 5, 9)
    edge[0, :, 4] = 1.0
    heat = torch.zeros(1, 1, 5, 9)
    heat[0, 0, 2, 1] = 1.0
    found = walk(heat, edge, radius=4, beta=5, steps=30)[0, 0]
    assert found[:, :4].min() > 0
    assert found[:, 4:].abs().max() == 0


def test_no_step_only_removes_the_boundary() -> None:
    edge = torch.full((1, 3, 3), 0.25)
    heat = torch.ones(1, 2, 3, 3)
    torch.testing.assert_close(walk(heat, edge, steps=0), heat * 0.75)


def test_classes_walk_alike_and_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    edge, heat = torch.rand(1, 6, 6, generator=generator), torch.rand(1, 4, 6, 6)
    together = walk(heat, edge)
    apart = torch.cat([walk(heat[:, k : k + 1], edge) for k in range(4)], dim=1)
    torch.testing.assert_close(together, apart)


def test_neighbours_of_the_usual_radius() -> None:
    # Radius 3: cells within distance sqrt(5), 24 around each, half of them listed.
    assert len(neighbours(3)) == 12
    assert len(set(neighbours(3)) | {(-y, -x) for y, x in neighbours(3)}) == 24


def test_path_by_hand() -> None:
    assert path((0, 2)) == [(0, 0), (0, 1), (0, 2)]
    assert path((1, 1)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # On the way to (2, 2) the two far corners are sqrt(2) from the line, all others under one.
    assert set(path((2, 2))) == {(y, x) for y in range(3) for x in range(3)} - {(0, 2), (2, 0)}
    assert path((1, -1)) == [(0, -1), (0, 0), (1, -1), (1, 0)]


def test_affinity_by_hand() -> None:
    edge = torch.tensor([[[0.0, 0.5, 0.2]]])
    found = affinities(edge, 3)[0]
    right_one, right_two = neighbours(3).index((0, 1)), neighbours(3).index((0, 2))
    torch.testing.assert_close(found[right_one, 0], torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(found[right_two, 0], torch.tensor([0.5, 0.0, 0.0]))


def test_windows_join_the_pairs_within_the_grid() -> None:
    # Cells of a 2 x 3 grid, numbered 0 to 5. Radius 2: down, right, and both diagonals.
    number = torch.arange(6).view(2, 3)
    found = {
        neighbours(2)[n]: list(zip(number[near].flatten(), number[far].flatten(), strict=True))
        for n, near, far in windows(2, 2, 3)
    }
    assert found == {
        (0, 1): [(0, 1), (1, 2), (3, 4), (4, 5)],
        (1, -1): [(1, 3), (2, 4)],
        (1, 0): [(0, 3), (1, 4), (2, 5)],
        (1, 1): [(0, 4), (1, 5)],
    }


def test_strongest_has_the_value_and_the_gradient_of_a_maximum() -> None:
    generator = torch.Generator().manual_seed(3)
    value = torch.rand(2, 6, 7, generator=generator, dtype=torch.float64).requires_grad_()
    for down, right in ((0, 3), (2, -3), (4, 1), (3, 0)):
        left = max(0, -right)
        wide, high = 7 - abs(right), 6 - down
        views = [value[:, y : y + high, left + x : left + x + wide] for y, x in path((down, right))]
        wanted = torch.stack(views).amax(dim=0)
        found = strongest(value, (down, right))
        assert torch.equal(found, wanted)
        assert torch.equal(strongest(value.detach(), (down, right)), wanted)
        weight = torch.rand(wanted.shape, generator=generator, dtype=torch.float64)
        gradients = [torch.autograd.grad((x * weight).sum(), value)[0] for x in (found, wanted)]
        torch.testing.assert_close(*gradients)


def test_affinities_are_differentiable() -> None:
    edge = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: affinities(value, 3), edge.requires_grad_())


@pytest.mark.parametrize(
    ("heat", "edge", "settings"),
    [
        (torch.ones(1, 2, 4, 4), torch.zeros(1, 4, 5), {}),
        (torch.ones(2, 4, 4), torch.zeros(2, 4, 4), {}),
        (torch.ones(1, 2, 4, 4), torch.full((1, 4, 4), 1.5), {}),
        (torch.ones(1, 2, 4, 4), torch.full((1, 4, 4), torch.nan), {}),
        (torch.ones(1, 2, 4, 4), torch.zeros(1, 4, 4), {"radius": 1}),
        (torch.ones(1, 2, 4, 4), torch.zeros(1, 4, 4), {"beta": 0.0}),
    ],
)
def test_what_does_not_fit_is_refused(heat: Tensor, edge: Tensor, settings: dict) -> None:
    with pytest.raises(ValueError, match=r"do not fit|needs|between 0 and 1"):
        walk(heat, edge, **settings)
