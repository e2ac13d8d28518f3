"""What a backward pass holds, by hand; and that passes stay within what they are given."""

import pytest
import torch
from chexseg_platform.config import Saliency
from chexseg_platform.models.classifier import ClassifierSpec, build_classifier
from chexseg_platform.saliency import methods
from chexseg_platform.saliency.memory import HEADROOM, budget_of, kept_bytes, rows_within
from torch import Tensor, nn


class Squares(nn.Module):
    """Keeps its input once and the weighted input once; the weight is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).square().flatten(1).sum(1, keepdim=True)


def test_by_hand() -> None:
    model, image = Squares(), torch.ones(1, 1, 8, 8)
    # x for the product's weight, and the product for the square: 64 floats each.
    assert kept_bytes(model, model, image) == 2 * 64 * 4
    assert kept_bytes(model, model, image.expand(3, -1, -1, -1).clone()) == 3 * 2 * 64 * 4
    assert rows_within(int(5 * HEADROOM * 512), model, model, image) == 5
    assert rows_within(1, model, model, image) == 1
    map_bytes = 4 * image[0, 0].numel()
    assert rows_within(int(5 * (HEADROOM * 512 + 3 * map_bytes)), model, model, image, 3) == 5


def test_twice_the_images_hold_twice_as_much() -> None:
    model = build_classifier(ClassifierSpec(encoder="densenet121")).eval()
    one, two = (kept_bytes(model, model, torch.randn(n, 1, 64, 64)) for n in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.01)


def test_budgets() -> None:
    assert budget_of(0.5, torch.device("cpu")) == 2**29
    assert budget_of("auto", torch.device("cpu")) == 2 << 30


@pytest.mark.parametrize("batch", [1, 6])
def test_no_pass_is_larger_than_its_budget_and_the_maps_are_the_same(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build_classifier(ClassifierSpec(encoder="resnet18")).eval()
    images = torch.randn(batch, 1, 32, 32)
    wanted = torch.zeros(batch, 14, dtype=torch.bool)
    wanted[:, 3] = wanted[0, 5] = True
    settings = Saliency.model_validate(
        {"method": "integrated-gradients", "integrated": {"steps": 4, "tolerance": None}}
    )
    plenty = methods.method_of(settings, model, 1 << 30)(images, wanted).heat_BKhw
    seen: list[int] = []
    plain = methods.scores
    monkeypatch.setattr(
        methods, "scores", lambda c, x, **how: (seen.append(len(x)), plain(c, x, **how))[1]
    )
    budget = int(HEADROOM * 2.5 * kept_bytes(model, model, images[:1]))
    tight = methods.method_of(settings, model, budget)(images, wanted).heat_BKhw
    assert max(seen) == min(2, 4 * batch)
    torch.testing.assert_close(tight, plenty, rtol=1e-3, atol=1e-6)
