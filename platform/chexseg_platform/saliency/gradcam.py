"""Grad-CAM of every class from one forward.

Grad-CAM (Selvaraju et al. 2017) weighs each feature map by the mean gradient of the class score
over the map. Behind a head of global average pooling and one linear layer that gradient is known:
with n = h * w cells it is W[k, c] / n everywhere. So the map of class k is

    relu( sum_c  W[k, c] / n * F[c] )

and all classes are one matrix product. Where the *probability* p is explained, as the released
CheXseg and CheXlocalize code does, the gradient is p (1 - p) times as large.

Some encoders (DenseNet) end before their last ReLU, and the released code hooks that place. The
gradient is W[k, c] / n in the cells where F[c] > 0 and 0 elsewhere, so its mean is smaller by the
share of such cells, and the sum runs over features of both signs.

`gradcam_autograd` is the general form for any model and layer, one backward a class; the closed
form is tested against it and against Captum.

Shapes: B images, C features, h x w their map, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from chexseg_platform.models.classifier import (
    NEGATIVE,
    POSITIVE,
    Classifier,
    to_log_odds,
    to_probabilities,
)

Explain = Literal["logit", "probability"]
Features = Literal["post-relu", "pre-relu"]


def gradcam(
    features_BChw: Tensor,
    weight: Tensor,
    logits: Tensor | None = None,
    explain: Explain = "logit",
    three_class: bool = False,
    features: Features = "post-relu",
) -> Tensor:
    """Grad-CAM in closed form, for a head of global average pooling and one linear layer.

    Args:
        features_BChw: the map that is pooled, any floating dtype; "pre-relu": before the ReLU that
            comes before the pooling.
        weight: of the linear layer, (K, C), or (3K, C) for three-class heads.
        logits: (B, K) or (B, 3K); only needed to explain the probability.
        explain: the class score: its logit (three-class: that of "positive") or probability.
        three_class: three outputs a class, ordered negative, uncertain, positive.
        features: which side of the last ReLU `features_BChw` was taken from.

    Returns:
        float32 (B, K, h, w), >= 0, not normalised. Raises ValueError on a missing `logits`.
    """
    if explain not in get_args(Explain) or features not in get_args(Features):
        raise ValueError(
            "Grad-CAM explains a 'logit' or a 'probability' on 'post-relu' or 'pre-relu' features, "
            f"not {explain!r} on {features!r}."
        )
    weight_KC = _direction(weight.float(), explain, three_class)
    height, width = features_BChw.shape[-2:]
    scaled_BChw = features_BChw.float()
    if features == "pre-relu":
        scaled_BChw = scaled_BChw * (scaled_BChw > 0).float().mean(dim=(2, 3), keepdim=True)
    with torch.autocast(features_BChw.device.type, enabled=False):
        heat_BKhw = torch.einsum("kc,bchw->bkhw", weight_KC / (height * width), scaled_BChw).relu_()
    if explain == "logit":
        return heat_BKhw
    if logits is None:
        raise ValueError("Explaining the probability needs the logits.")
    odds_BK = to_log_odds(logits, three_class)
    # p (1 - p), where 1 - p would be 0 in float32 for whoever is very sure.
    slope_BK = torch.sigmoid(odds_BK) * torch.sigmoid(-odds_BK)
    return heat_BKhw.mul_(slope_BK[:, :, None, None])


@torch.inference_mode()
def explain_batch(
    classifier: Classifier,
    input_BCSS: Tensor,
    explain: Explain = "logit",
    features: Features = "post-relu",
) -> tuple[Tensor, Tensor]:
    """Maps and probabilities of every class from one forward.

    Args:
        classifier: in eval mode.
        input_BCSS: normalised images, where the classifier is.
        features: "pre-relu" where the encoder ends before its last ReLU.

    Returns:
        heat (B, K, h, w) and probabilities (B, K), float32.

    Raises:
        ValueError: for "pre-relu" where the encoder's own output is rectified.
    """
    check_features(classifier, features)
    encoded_BChw: Tensor = classifier.encoder(input_BCSS)[-1]
    features_BChw = classifier.last(encoded_BChw)
    logits = classifier.from_features(features_BChw)
    three_class = classifier.spec.three_class
    explained_BChw = encoded_BChw if features == "pre-relu" else features_BChw
    weight = classifier.head.weight
    heat_BKhw = gradcam(explained_BChw, weight, logits, explain, three_class, features)
    return heat_BKhw, to_probabilities(logits, three_class)


def check_features(classifier: Classifier, features: Features) -> None:
    """Raise ValueError unless the classifier's encoder has such features."""
    if features == "pre-relu" and isinstance(classifier.last, nn.Identity):
        raise ValueError(
            f"{classifier.spec.encoder} ends after its last ReLU, so there are no features before "
            "it: set saliency.features to post-relu."
        )


def gradcam_autograd(
    score: Callable[[Tensor], Tensor],
    layer: nn.Module,
    input_BCSS: Tensor,
    classes: Sequence[int],
) -> Tensor:
    """Grad-CAM by automatic differentiation, for any head and layer: one backward a class.

    Args:
        score: images -> (B, K) scores, through `layer` once.
        layer: whose output (B, C, h, w) is explained; put it after an in-place ReLU, not before.
        input_BCSS: normalised images.
        classes: columns of the scores to explain.

    Returns:
        (B, len(classes), h, w), >= 0, not normalised.
    """
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            # Grad-CAM needs a graph even where every weight is frozen.
            scores_BK = score(input_BCSS.detach().requires_grad_(True))
    finally:
        hook.remove()
    if len(kept) != 1:
        raise ValueError(f"The layer ran {len(kept)} times in one forward; Grad-CAM needs once.")
    return torch.stack([_one_class(scores_BK[:, k], kept[0]) for k in classes], dim=1)


def _one_class(score_B: Tensor, features_BChw: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(score_B.sum(), features_BChw, retain_graph=True)
    weight_BC11 = gradient.mean(dim=(2, 3), keepdim=True)
    return (weight_BC11 * features_BChw.detach()).sum(dim=1).relu()


def _direction(weight: Tensor, explain: Explain, three_class: bool) -> Tensor:
    if not three_class:
        return weight
    weight_K3C = weight.unflatten(0, (-1, 3))
    if explain == "logit":
        return weight_K3C[:, POSITIVE]
    # p = sigmoid(z_positive - z_negative), so both outputs carry gradient.
    return weight_K3C[:, POSITIVE] - weight_K3C[:, NEGATIVE]
