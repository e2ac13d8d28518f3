"""Captum's attribution methods by name, through one adapter: for comparisons, off the hot path.

Captum wants ReLUs that are modules, used once each and not in place; encoders reuse one module or
call the function. So the model is traced and every ReLU becomes a module of its own, which
changes no number.

Captum takes one target an image. An image that wants t classes takes part in t calls, each
with the images that still want one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn

from chexseg_platform.config import CaptumMethod
from chexseg_platform.models.classifier import Classifier

NAMES: tuple[str, ...] = get_args(CaptumMethod)
WINDOW = 1 / 8
"""Side of occlusion's window, as a share of the frame's; it moves by half of its side."""

_RELUS = (torch.relu, nn.functional.relu)


class CannotTrace(ValueError):
    """The encoder's code cannot be traced, so Captum's rules for ReLUs cannot be applied."""


def separate_relus(model: nn.Module) -> nn.Module:
    """Return a copy that computes the same, with one `nn.ReLU` module a use.

    Raises:
        CannotTrace: where the model's code depends on its input.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model))
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise CannotTrace(
            f"This encoder cannot be prepared for deeplift and guided-backprop ({error}): take "
            "another method or another encoder."
        ) from error
    modules = dict(traced.named_modules())
    relus = [node for node in traced.graph.nodes if _is_relu(node, modules)]
    for number, node in enumerate(relus):
        name = f"relu_{number}"
        traced.add_submodule(name, nn.ReLU())
        with traced.graph.inserting_before(node):
            own = traced.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(own)
        traced.graph.erase_node(node)
    traced.recompile()
    return traced.eval()


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in _RELUS


def captum_maps(name: str, classifier: Classifier) -> Callable[..., Tensor]:
    """Prepare a method for a classifier.

    Args:
        name: one of NAMES.
        classifier: in eval mode; left as it is. Its logits are explained: for a three-class
            classifier those of "positive".

    Returns:
        A function (input_BCSS, wanted_BK bool, rows=32) -> (B, K, S, S) float32, signed, summed
        over channels, 0 where not wanted. Zeros are the baseline. `rows`: most images in one
        pass; occlusion hides that many windows at once.

    Raises:
        ValueError: for an unknown name.
        CannotTrace: see `separate_relus`.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown Captum method {name!r}; choose one of {', '.join(NAMES)}.")
    import captum.attr

    model: nn.Module = classifier
    if name in ("deeplift", "guided-backprop"):
        model = separate_relus(classifier)
    make: dict[str, Callable[[nn.Module], Any]] = {
        "deeplift": captum.attr.DeepLift,
        "gradient": captum.attr.Saliency,
        "guided-backprop": captum.attr.GuidedBackprop,
        "input-x-gradient": captum.attr.InputXGradient,
        "occlusion": captum.attr.Occlusion,
    }
    method, stride = make[name](model), 3 if classifier.spec.three_class else 1

    def maps(input_BCSS: Tensor, wanted_BK: Tensor, rows: int = 32) -> Tensor:
        found = torch.zeros((*wanted_BK.shape, *input_BCSS.shape[2:]), device=input_BCSS.device)
        if name == "deeplift":
            rows = max(1, rows // 2)  # it puts a baseline beside every image
        for image_R, class_R in _turns(wanted_BK, rows):
            target = class_R * stride + (stride - 1)
            with warnings.catch_warnings():
                # It says that it sets gradients and hooks, and how it will remove them again.
                warnings.simplefilter("ignore")
                given = method.attribute(
                    input_BCSS[image_R],
                    target=target,
                    **_arguments(name, input_BCSS.shape, rows),
                )
            found[image_R, class_R] = given.sum(dim=1).detach().float()
        return found

    return maps


def _turns(wanted_BK: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and a class for each: in a turn no image comes twice."""
    turn_BK = wanted_BK.cumsum(dim=1) * wanted_BK
    for turn in range(1, int(turn_BK.max()) + 1 if turn_BK.numel() else 1):
        image, class_ = (turn_BK == turn).nonzero(as_tuple=True)
        yield from zip(image.split(rows), class_.split(rows), strict=True)


def _arguments(name: str, shape: torch.Size, rows: int) -> dict[str, Any]:
    if name == "gradient":
        return {"abs": False}
    if name != "occlusion":
        return {}
    side = max(2, round(shape[-1] * WINDOW))
    return {
        "sliding_window_shapes": (shape[1], side, side),
        "strides": (shape[1], max(1, side // 2), max(1, side // 2)),
        "perturbations_per_eval": max(1, rows // max(1, min(shape[0], rows))),
    }
