"""Saliency methods by name under one contract: images and wanted classes in, maps out.

Grad-CAM gives every class for nothing; all others pay a class, so they are asked only for the
(image, class) pairs that may become masks. Maps are at least 0: of a signed attribution the
evidence *for* a class is kept, or its absolute value where the settings say so.

Shapes: B images, C channels, S side, K classes of the classifier, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from chexseg_platform.config import Saliency
from chexseg_platform.models.classifier import POSITIVE, Classifier, to_probabilities
from chexseg_platform.saliency.captums import captum_maps
from chexseg_platform.saliency.gradcam import explain_batch
from chexseg_platform.saliency.integrated import integrated_gradients
from chexseg_platform.saliency.memory import rows_within


class Explained(NamedTuple):
    """What a method says of a batch.

    heat_BKhw: float32, at least 0, not normalised; where not wanted 0, or a map all the same.
    probability_BK: float32.
    steps_BK, error_BK: of Integrated Gradients, its steps and completeness error; NaN where not
    wanted, None for other methods.
    """

    heat_BKhw: Tensor
    probability_BK: Tensor
    steps_BK: Tensor | None = None
    error_BK: Tensor | None = None


Method = Callable[[Tensor, Tensor], Explained]
"""(input_BCSS normalised, wanted_BK bool) -> Explained."""


def method_of(settings: Saliency, classifier: Classifier, budget: int = 2 << 30) -> Method:
    """Prepare the method that the settings name.

    Args:
        classifier: in eval mode, where the images will be.
        budget: bytes that a pass with gradients may hold; of no weight for Grad-CAM.
    """
    if settings.method == "grad-cam":
        return partial(_grad_cam, classifier, settings)
    if settings.method == "integrated-gradients":
        wish = settings.integrated
        # A tolerance has the maps of all nodes kept until the last.
        maps = 0 if wish.tolerance is None else max(wish.steps, wish.most_steps)
        return partial(_integrated, classifier, settings, _Rows(classifier, budget, maps))
    return _Captum(classifier, settings, _Rows(classifier, budget))


class _Rows:
    """How many images one pass may hold, measured once an image size."""

    def __init__(self, classifier: Classifier, budget: int, maps: int = 0) -> None:
        self._classifier, self._budget, self._maps = classifier, budget, maps
        self._known: dict[torch.Size, int] = {}

    def __call__(self, input_BCSS: Tensor) -> int:
        shape = input_BCSS.shape[1:]
        if shape not in self._known:
            model = self._classifier
            self._known[shape] = rows_within(self._budget, model, model, input_BCSS[:1], self._maps)
        return self._known[shape]


def _grad_cam(
    classifier: Classifier, settings: Saliency, input_BCSS: Tensor, wanted_BK: Tensor
) -> Explained:
    return Explained(*explain_batch(classifier, input_BCSS, settings.explain, settings.features))


class _Captum:
    """A method of Captum's; the model is prepared for it once."""

    def __init__(self, classifier: Classifier, settings: Saliency, rows: _Rows) -> None:
        self._classifier, self._settings, self._rows = classifier, settings, rows
        self._maps = captum_maps(settings.method, classifier)

    def __call__(self, input_BCSS: Tensor, wanted_BK: Tensor) -> Explained:
        heat_BKSS = self._maps(input_BCSS, wanted_BK, self._rows(input_BCSS))
        unsigned_BKSS = _unsigned(heat_BKSS, self._settings)
        return Explained(unsigned_BKSS, probabilities(self._classifier, input_BCSS))


def _integrated(
    classifier: Classifier,
    settings: Saliency,
    rows_of: _Rows,
    input_BCSS: Tensor,
    wanted_BK: Tensor,
) -> Explained:
    wish, rows = settings.integrated, rows_of(input_BCSS) if len(input_BCSS) else 1
    score = partial(scores, classifier, explain=settings.explain)
    baselines = [_baseline(name, input_BCSS) for name in wish.baselines]
    sum_BKSS = input_BCSS.new_zeros((*wanted_BK.shape, *input_BCSS.shape[2:]))
    steps_BK, error_BK = (input_BCSS.new_full(wanted_BK.shape, torch.nan) for _ in range(2))
    # Summed as they come: maps of fifty copies would be fifty times what a batch may hold.
    for copy in _noisy(input_BCSS, wish.smooth, wish.noise):
        for baseline in baselines:
            found = integrated_gradients(
                score,
                copy,
                wanted_BK,
                baseline,
                steps=wish.steps,
                tolerance=wish.tolerance,
                most_steps=wish.most_steps,
                rows=rows,
            )
            pairs = found.image_P, found.class_P
            sum_BKSS[pairs] += found.map_PSS
            steps_BK[pairs] = torch.fmax(steps_BK[pairs], found.steps_P.float())
            error_BK[pairs] = torch.maximum(error_BK[pairs].nan_to_num(0.0), found.error_P)
    runs = max(1, wish.smooth) * len(baselines)
    return Explained(
        _unsigned(sum_BKSS.div_(runs), settings),
        probabilities(classifier, input_BCSS),
        steps_BK,
        error_BK,
    )


def scores(classifier: Classifier, input_BCSS: Tensor, explain: str) -> Tensor:
    """What is explained: (B, K) logits (three-class: of "positive") or probabilities."""
    logits = classifier(input_BCSS)
    if explain == "probability":
        return to_probabilities(logits, classifier.spec.three_class)
    return logits.unflatten(1, (-1, 3))[..., POSITIVE] if classifier.spec.three_class else logits


@torch.inference_mode()
def probabilities(classifier: Classifier, input_BCSS: Tensor) -> Tensor:
    """Probabilities (B, K), float32."""
    return to_probabilities(classifier(input_BCSS), classifier.spec.three_class)


def _unsigned(map_BKSS: Tensor, settings: Saliency) -> Tensor:
    return map_BKSS.abs() if settings.sign == "absolute" else map_BKSS.clamp(min=0)


def _baseline(name: str, input_BCSS: Tensor) -> Tensor:
    """Where the line starts: "mean" grey (which padding has too), "black", or the image "blurred".

    Black is each image's own blackest pixel: the normalisation stays with whoever made the input.
    """
    if name == "mean":
        return torch.zeros_like(input_BCSS[:1])
    if name == "black":
        return input_BCSS.amin(dim=(1, 2, 3), keepdim=True).expand_as(input_BCSS)
    side = input_BCSS.shape[-1]
    width = 2 * (side // 8) + 1
    return gaussian_blur(input_BCSS, [width, width], [side / 16, side / 16])


def _noisy(input_BCSS: Tensor, copies: int, noise: float) -> Iterator[Tensor]:
    """SmoothGrad (Smilkov et al. 2017): copies with Gaussian noise, a share of each image's range.

    The noise is the same for the same number of copies and shape, so a rerun gives the same maps.
    """
    if copies == 0:
        yield input_BCSS
        return
    generator = torch.Generator().manual_seed(copies)
    spread_B111 = noise * (
        input_BCSS.amax(dim=(1, 2, 3), keepdim=True) - input_BCSS.amin(dim=(1, 2, 3), keepdim=True)
    )
    draw = partial(torch.randn, input_BCSS.shape[1:], generator=generator)
    for _ in range(copies):
        yield input_BCSS + spread_B111 * draw().to(input_BCSS)
