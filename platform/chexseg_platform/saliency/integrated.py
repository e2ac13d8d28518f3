"""Integrated Gradients of the wanted classes only, with as few passes as that takes.

Integrated Gradients (Sundararajan et al. 2017) of class k averages the gradient of its score along
the straight line from a baseline x0 to the image x, and multiplies by x - x0. The line is sampled
at the nodes of a Gauss-Legendre rule, which for so smooth a function needs far fewer points than
equal steps. Along the line:

- one forward a point serves every class;
- one backward serves a *different* class in each image, since in eval mode images do not
  influence one another. With images sorted by how many classes they want, the backwards that
  carry a zero gradient for some image are few;
- weights need no gradient, only the image does.

So the cost of an image with t wanted classes and n steps is n (1 forward + t backwards), where
class by class it is t n (1 forward + 1 backward) at best.

Attributions of a class sum to f_k(x) - f_k(x0) ("completeness"). What is missing of that is the
error of the rule, and by it the number of steps is chosen: those maps alone whose error is above
the tolerance get a further rule, of as many nodes as they have had. A network of ReLUs has a
gradient that jumps, along which rules of n nodes are off by about 1/n, each in its own way; so no
rule is thrown away: their mean by nodes is as good as one rule of all their nodes. Where the score
is smooth the latest rule is better than the mean, and is taken.

Shapes: B images, C channels, S side, K classes, P wanted (image, class) pairs in row-major order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""Images (N, C, S, S) -> scores (N, K), each image's from that image alone."""

FLOOR = 1e-2
"""Completeness is relative to the change of score, or to this where the change is smaller."""


@dataclass(frozen=True)
class Attribution:
    """What Integrated Gradients say of P pairs; tensors on the images' device.

    Attributes:
        image_P, class_P: int64, the pairs.
        map_PSS: float32, signed, summed over channels; sums to about `change_P`.
        change_P: float32, f_k(x) - f_k(x0), mean over baselines.
        error_P: float32, |sum of the map - change| / max(|change|, 0.01).
        steps_P: int64, nodes in all.
    """

    image_P: Tensor
    class_P: Tensor
    map_PSS: Tensor
    change_P: Tensor
    error_P: Tensor
    steps_P: Tensor


def integrated_gradients(
    score: Score,
    input_BCSS: Tensor,
    wanted_BK: Tensor,
    baseline_BCSS: Tensor | None = None,
    *,
    steps: int = 32,
    tolerance: float | None = None,
    most_steps: int = 256,
    rows: int = 64,
) -> Attribution:
    """Integrated Gradients of some classes of some images.

    Args:
        score: what is explained; set the model to eval mode, batch statistics mix images.
        input_BCSS: normalised images.
        wanted_BK: bool, the pairs.
        baseline_BCSS: where the line starts, (B, C, S, S) or (1, C, S, S); None for zeros.
        steps: nodes of the rule, of the first try where a tolerance is given.
        tolerance: largest completeness error; pairs above it get further nodes, about twice as
            many with every round, until `most_steps`. None keeps `steps`.
        rows: most images in one pass. This bounds memory whatever B and the steps are.

    Returns:
        Maps and their errors; `error_P` may exceed the tolerance where `most_steps` was reached.

    Raises:
        ValueError: on shapes that do not fit, or numbers below 1.
    """
    _check(input_BCSS, wanted_BK, baseline_BCSS, steps, most_steps, rows, tolerance)
    baseline = torch.zeros_like(input_BCSS[:1]) if baseline_BCSS is None else baseline_BCSS
    image_P, class_P = wanted_BK.nonzero(as_tuple=True)
    change_P = _change(score, input_BCSS, baseline, image_P, class_P, rows)
    side = input_BCSS.shape[-2:]
    map_PSS = torch.zeros((len(image_P), *side), device=input_BCSS.device)
    error_P = torch.full((len(image_P),), torch.inf, device=input_BCSS.device)
    steps_P = torch.zeros_like(image_P)
    todo, total = torch.arange(len(image_P), device=input_BCSS.device), 0
    mean_TSS = map_PSS  # of the pairs that are to do
    for count in _rules(steps, steps if tolerance is None else most_steps):
        if not len(todo):
            break
        rule_TSS = _maps(score, input_BCSS, baseline, image_P[todo], class_P[todo], count, rows)
        total += count
        mean_TSS = torch.lerp(mean_TSS, rule_TSS, count / total)
        change_T = change_P[todo]
        rule_error_T, mean_error_T = _error(rule_TSS, change_T), _error(mean_TSS, change_T)
        latest_T = rule_error_T <= mean_error_T
        map_PSS[todo] = torch.where(latest_T[:, None, None], rule_TSS, mean_TSS)
        error_P[todo] = torch.where(latest_T, rule_error_T, mean_error_T)
        steps_P[todo] = total
        if tolerance is not None:
            # Not "above": an error that is not a number cannot be under the tolerance either.
            open_T = ~(error_P[todo] <= tolerance)
            todo, mean_TSS = todo[open_T], mean_TSS[open_T]
    return Attribution(image_P, class_P, map_PSS, change_P, error_P, steps_P)


def _rules(steps: int, most_steps: int) -> Iterator[int]:
    """Yield the nodes of one rule after the other, no number twice, `most_steps` in all.

    Each doubles what there was, with one more, for then its nodes lie between the others'.
    """
    used: set[int] = set()
    count = steps
    while count > 0:
        used.add(count)
        yield count
        count = min(sum(used) + 1, most_steps - sum(used))
        while count in used:
            count -= 1


def _error(map_PSS: Tensor, change_P: Tensor) -> Tensor:
    """Completeness error."""
    return (map_PSS.sum(dim=(1, 2)) - change_P).abs() / change_P.abs().clamp(min=FLOOR)


def nodes(steps: int) -> tuple[list[float], list[float]]:
    """Gauss-Legendre nodes and weights on [0, 1]; the weights sum to 1."""
    node, weight = np.polynomial.legendre.leggauss(steps)
    return ((node + 1) / 2).tolist(), (weight / 2).tolist()


def _check(
    input_BCSS: Tensor,
    wanted_BK: Tensor,
    baseline_BCSS: Tensor | None,
    steps: int,
    most_steps: int,
    rows: int,
    tolerance: float | None,
) -> None:
    if wanted_BK.ndim != 2 or len(wanted_BK) != len(input_BCSS) or wanted_BK.dtype != torch.bool:
        raise ValueError(
            f"Wanted classes must be bool of shape ({len(input_BCSS)}, classes); got "
            f"{wanted_BK.dtype} of shape {tuple(wanted_BK.shape)}."
        )
    fitting = {tuple(input_BCSS.shape), (1, *input_BCSS.shape[1:])}
    if baseline_BCSS is not None and tuple(baseline_BCSS.shape) not in fitting:
        raise ValueError(
            f"A baseline of shape {tuple(baseline_BCSS.shape)} does not fit images of shape "
            f"{tuple(input_BCSS.shape)}."
        )
    if min(steps, most_steps, rows) < 1 or (tolerance is not None and not tolerance > 0):
        raise ValueError("steps, most_steps and rows are at least 1, and a tolerance above 0.")


@torch.no_grad()
def _change(
    score: Score, input_: Tensor, baseline: Tensor, image_P: Tensor, class_P: Tensor, rows: int
) -> Tensor:
    ends = [
        torch.cat([score(part).float() for part in images.split(rows)])
        if len(image_P)
        else images.new_zeros((len(images), 1))
        for images in (input_, baseline)
    ]
    start = ends[1].expand(len(input_), -1)
    return ends[0][image_P, class_P] - start[image_P, class_P]


def _maps(
    score: Score,
    input_: Tensor,
    baseline: Tensor,
    image_P: Tensor,
    class_P: Tensor,
    steps: int,
    rows: int,
) -> Tensor:
    """Maps (P, S, S) of pairs sorted by image, by a rule of `steps` nodes."""
    maps = torch.zeros((len(image_P), *input_.shape[-2:]), device=input_.device)
    for image_R, node_R, weight_R, pair_RT in _passes(image_P, steps, rows):
        start = baseline if len(baseline) == 1 else baseline[image_R]
        way = input_[image_R] - start
        point = (start + node_R.to(way)[:, None, None, None] * way).requires_grad_(True)
        with torch.enable_grad():
            scores = score(point)
        scale = weight_R.to(way)[:, None, None, None] * way
        turns = pair_RT.shape[1]
        for turn in range(turns):
            pair_R = pair_RT[:, turn]
            # Rows are sorted by how many pairs they have: those with one in this turn are first.
            active = int((pair_R >= 0).sum())
            pair_A = pair_R[:active]
            picked = scores[:active].gather(1, class_P[pair_A][:, None]).sum()
            (gradient,) = torch.autograd.grad(picked, point, retain_graph=turn + 1 < turns)
            maps.index_add_(0, pair_A, (gradient[:active] * scale[:active]).sum(dim=1).float())
    return maps


def _passes(
    image_P: Tensor, steps: int, rows: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Cut images x nodes into passes of at most `rows`.

    Yields image (R,), node (R,), weight (R,) and pairs (R, T), -1 where an image has fewer than T.
    """
    if not len(image_P):
        return
    image_U, count_U = torch.unique_consecutive(image_P, return_counts=True)
    first_U = count_U.cumsum(0) - count_U
    order_U = torch.argsort(count_U, descending=True, stable=True)
    turn_T = torch.arange(int(count_U.max()), device=image_P.device)
    pair_UT = torch.where(turn_T < count_U[:, None], first_U[:, None] + turn_T, -1)
    node_N, weight_N = (torch.tensor(x, device=image_P.device) for x in nodes(steps))
    for part in torch.arange(len(order_U) * steps, device=image_P.device).split(rows):
        place = order_U[part // steps]
        most = int(count_U[place].max())
        yield image_U[place], node_N[part % steps], weight_N[part % steps], pair_UT[place, :most]
