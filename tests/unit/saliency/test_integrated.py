"""Integrated Gradients against Captum, against answers by hand, and their own promises."""

from collections.abc import Callable

import pytest
import torch
from captum.attr import IntegratedGradients
from chexseg_platform.saliency.integrated import FLOOR, Attribution, integrated_gradients, nodes
from torch import Tensor, nn

SIDE, CLASSES = 16, 5


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip
    for _ in range(3):
        net(torch.randn(8, 2, SIDE, SIDE) + 1)
    return net.eval().requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


WANTED = torch.tensor(
    [[0, 1, 0, 0, 0], [1, 1, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 1, 1, 0]], dtype=torch.bool
)


def captum(model: nn.Module, images: Tensor, baseline: Tensor, steps: int) -> Tensor:
    method = IntegratedGradients(model)
    maps = [
        method.attribute(
            images[b : b + 1], baseline[b : b + 1], target=int(k), n_steps=steps,
            method="gausslegendre",
        ).sum(1)[0]
        for b, k in WANTED.nonzero().tolist()
    ]  # fmt: skip
    return torch.stack(maps)


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_equals_captum_however_passes_are_cut(model: nn.Module, images: Tensor, rows: int) -> None:
    baseline = torch.randn_like(images)
    expected = captum(model, images, baseline, steps=6)
    found = integrated_gradients(model, images, WANTED, baseline, steps=6, rows=rows)
    assert list(zip(found.image_P.tolist(), found.class_P.tolist(), strict=True)) == [
        (0, 1), (1, 0), (1, 1), (1, 2), (1, 4), (3, 2), (3, 3),
    ]  # fmt: skip
    scale = expected.abs().max()
    torch.testing.assert_close(found.map_PSS / scale, expected / scale, rtol=0, atol=1e-5)


def test_one_baseline_for_all_and_zero_by_default(model: nn.Module, images: Tensor) -> None:
    zero = integrated_gradients(model, images, WANTED, steps=4)
    given = integrated_gradients(model, images, WANTED, torch.zeros_like(images), steps=4)
    one = integrated_gradients(model, images, WANTED, torch.zeros_like(images[:1]), steps=4)
    torch.testing.assert_close(zero.map_PSS, given.map_PSS)
    torch.testing.assert_close(zero.map_PSS, one.map_PSS)
    torch.testing.assert_close(zero.change_P, given.change_P)


def polynomial(images: Tensor) -> Tensor:
    """f_0 = sum x^3, f_1 = sum of x: the gradients along the line are known."""
    flat = images.flatten(1)
    return torch.stack([(flat**3).sum(1), flat.sum(1)], dim=1)


def test_a_cubic_by_hand() -> None:
    # Along x0 + a (x - x0) with x0 = 0 the gradient of x^3 is 3 a^2 x^2; its mean is x^2.
    images = torch.tensor([[[[1.0, 2.0], [-1.0, 0.5]]]])
    wanted = torch.ones(1, 2, dtype=torch.bool)
    found = integrated_gradients(polynomial, images, wanted, steps=2)  # exact to degree 3
    torch.testing.assert_close(found.map_PSS[0], images[0, 0] ** 3)
    torch.testing.assert_close(found.map_PSS[1], images[0, 0])
    torch.testing.assert_close(found.change_P, torch.tensor([8.125, 2.5]))
    assert found.error_P.max() < 1e-6


def test_more_steps_only_where_the_error_is_above_the_tolerance() -> None:
    # One node is exact for the linear class and misses the cubic one: 3/4 x^3 instead of x^3.
    images = torch.tensor([[[[1.0, 2.0], [-1.0, 0.5]]]])
    wanted = torch.ones(1, 2, dtype=torch.bool)
    found = integrated_gradients(polynomial, images, wanted, steps=1, tolerance=0.01)
    assert found.steps_P[0] > found.steps_P[1] == 1
    assert found.error_P.max() <= 0.01
    # All pixels have the same path here, so each is as near as the sum.
    torch.testing.assert_close(found.map_PSS[0], images[0, 0] ** 3, rtol=0.01, atol=0)


def test_a_first_rule_that_is_good_enough_is_kept() -> None:
    images = torch.tensor([[[[1.0, 2.0], [-1.0, 0.5]]]])
    wanted = torch.ones(1, 2, dtype=torch.bool)
    plain = integrated_gradients(polynomial, images, wanted, steps=2)
    found = integrated_gradients(polynomial, images, wanted, steps=2, tolerance=1e-4)
    torch.testing.assert_close(found.map_PSS, plain.map_PSS)
    assert found.steps_P.tolist() == [2, 2]


def kinked(kink: float, tolerance: float, **how: int) -> tuple[Attribution, list[float]]:
    """relu(x - kink) from 0 to 1: its gradient along the line is 0, and 1 from the kink on."""
    seen: list[float] = []

    def score(images: Tensor) -> Tensor:
        seen.extend(images.flatten().tolist())
        return torch.relu(images.flatten(1) - kink)

    wanted = torch.ones(1, 1, dtype=torch.bool)
    found = integrated_gradients(score, torch.ones(1, 1, 1, 1), wanted, tolerance=tolerance, **how)
    return found, seen[2:]  # without the ends


def test_a_node_goes_where_the_gap_is_wrong() -> None:
    """One node, at 0.5, says 1; right is 0.7.

    From 0.5 to 1 the score rises by 0.5, as the gradient says; before, by 0.2 and not by 0.5. So
    the next is at 1/6, whose gradient is 0, and which counts until 1/3: 2/3 in all.
    """
    found, seen = kinked(0.3, 0.05, steps=1)
    assert seen == pytest.approx([0.5, 1 / 6])
    assert found.map_PSS.item() == pytest.approx(2 / 3)
    assert found.error_P.item() == pytest.approx((0.7 - 2 / 3) / 0.7, rel=1e-4)
    assert found.steps_P.tolist() == [2]


def test_the_gap_with_the_kink_is_cut_again_and_again() -> None:
    """On from 1/6 and 1/2: each gap with the kink is cut, until 0.6979 is near enough to 0.7."""
    found, seen = kinked(0.3, 0.01, steps=1)
    assert seen == pytest.approx([1 / 2, 1 / 6, 1 / 3, 1 / 4, 7 / 24, 5 / 16])
    assert found.map_PSS.item() == pytest.approx(1 - (7 / 24 + 5 / 16) / 2, rel=1e-5)
    assert found.error_P.item() <= 0.01


@pytest.mark.parametrize("kink", [0.01, 0.37, 0.5, 0.81, 0.995])
def test_few_nodes_find_a_kink_wherever_it_is(kink: float) -> None:
    # A rule for all of the line is off by about 1/n, and would take hundreds.
    found, _ = kinked(kink, 1e-3, steps=8)
    assert found.error_P.item() <= 1e-3
    assert found.steps_P.item() <= 24


@pytest.mark.parametrize(("steps", "most"), [(8, 8), (8, 5), (8, 9), (4, 7), (1, 2)])
def test_no_more_gradients_than_the_most(steps: int, most: int) -> None:
    found, seen = kinked(0.3, 1e-6, steps=steps, most_steps=most)
    assert found.steps_P.tolist() == [len(seen)] == [max(steps, most)]


def test_targets_of_an_image_share_the_points_they_both_want() -> None:
    seen: list[int] = []

    def score(images: Tensor) -> Tensor:
        seen.append(len(images))
        flat = images.flatten(1)
        return torch.cat([torch.relu(flat - 0.3), 2 * torch.relu(flat - 0.3), flat], dim=1)

    wanted = torch.ones(1, 3, dtype=torch.bool)
    image = torch.ones(1, 1, 1, 1)
    found = integrated_gradients(score, image, wanted, steps=1, tolerance=0.05)
    assert seen == [1, 1, 1, 1]  # both ends, the first node, and one more for two of them
    assert found.steps_P.tolist() == [2, 2, 1]


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_maps_do_not_depend_on_how_many_are_refined_at_a_time(
    model: nn.Module, images: Tensor, rows: int
) -> None:
    seen: list[int] = []

    def counting(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return model(batch)

    how = {"steps": 2, "tolerance": 0.002}
    alone = integrated_gradients(model, images, WANTED, **how)
    found = integrated_gradients(counting, images, WANTED, rows=rows, **how)
    assert max(seen) <= rows
    assert found.steps_P.tolist() == alone.steps_P.tolist()
    assert found.steps_P.max() > 2
    torch.testing.assert_close(found.map_PSS, alone.map_PSS, rtol=1e-3, atol=1e-6)


def test_refined_maps_go_to_what_many_steps_say(model: nn.Module, images: Tensor) -> None:
    right = integrated_gradients(model, images, WANTED, steps=400).map_PSS
    found = integrated_gradients(model, images, WANTED, steps=2, tolerance=1e-4)
    assert ((found.map_PSS - right).norm() / right.norm()) < 0.02


def test_the_error_is_the_missing_share_of_completeness() -> None:
    images = torch.full((1, 1, 1, 1), 2.0)
    wanted = torch.tensor([[True, False]])
    found = integrated_gradients(polynomial, images, wanted, steps=1)
    assert found.error_P.item() == pytest.approx(0.25)
    capped = integrated_gradients(
        polynomial, images / 20, wanted, steps=1, tolerance=1e-9, most_steps=1
    )
    assert capped.error_P.item() == pytest.approx(0.25 * 0.1**3 / FLOOR, rel=1e-4)


def test_no_more_images_in_a_pass_than_rows(model: nn.Module, images: Tensor) -> None:
    seen: list[int] = []

    def counting(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return model(batch)

    integrated_gradients(counting, images, WANTED, steps=50, rows=3)
    assert max(seen) <= 3


def test_passes_are_shared_among_classes_and_images(model: nn.Module, images: Tensor) -> None:
    forwards: list[int] = []

    def counting(batch: Tensor) -> Tensor:
        forwards.append(len(batch))
        return model(batch)

    integrated_gradients(counting, images, WANTED, steps=5, rows=1000)
    # Three images want something, at five points each; and the two ends of the line.
    assert forwards == [4, 1, 15]


def test_no_backward_is_of_an_image_that_wants_none(model: nn.Module, images: Tensor) -> None:
    backwards: list[int] = []

    def counting(batch: Tensor) -> Tensor:
        if batch.requires_grad:
            batch.register_hook(lambda gradient: backwards.append(len(gradient)))
        return model(batch)

    # Twelve points, of which four want 4 classes, four 2 and four 1: three passes of four points,
    # where passes of five would mix them.
    integrated_gradients(counting, images, WANTED, steps=4, rows=5)
    assert backwards == [4] * (4 + 2 + 1)


def test_a_score_that_is_not_a_number_is_told(images: Tensor) -> None:
    images[1, 0, 0, 0] = torch.nan
    found = integrated_gradients(polynomial, images, WANTED[:, :2], tolerance=0.1, most_steps=64)
    assert found.error_P.isnan().tolist() == [False, True, True]


def test_nothing_wanted_gives_nothing(model: nn.Module, images: Tensor) -> None:
    found = integrated_gradients(model, images, torch.zeros_like(WANTED))
    assert found.map_PSS.shape == (0, SIDE, SIDE)
    assert len(found.error_P) == len(found.change_P) == 0


def test_a_frozen_model_is_left_without_gradients(model: nn.Module, images: Tensor) -> None:
    integrated_gradients(model, images, WANTED, steps=2)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_weights_sum_to_one(steps: int) -> None:
    node, weight = nodes(steps)
    assert sum(weight) == pytest.approx(1.0)
    assert all(0 < x < 1 for x in node)


@pytest.mark.parametrize(
    "change",
    [
        lambda arguments: arguments | {"wanted_BK": WANTED[:2]},
        lambda arguments: arguments | {"wanted_BK": WANTED.float()},
        lambda arguments: arguments | {"baseline_BCSS": torch.zeros(2, 2, SIDE, SIDE)},
        lambda arguments: arguments | {"steps": 0},
        lambda arguments: arguments | {"rows": 0},
        lambda arguments: arguments | {"tolerance": 0.0},
    ],
)
def test_what_does_not_fit_is_refused(
    model: nn.Module, images: Tensor, change: Callable[[dict], dict]
) -> None:
    with pytest.raises(ValueError, match=r"must be|does not fit|at least"):
        integrated_gradients(
            model, **change({"input_BCSS": images, "wanted_BK": WANTED, "steps": 2})
        )
