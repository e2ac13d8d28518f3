"""Maps of several models made one: by hand, and what must not depend on what."""

import pytest
import torch
from chexseg_platform.saliency.distil import combined, scaled, trust

A = torch.tensor([[[[4.0, 2.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]]])
B = torch.tensor([[[[1.0, 0.0], [1.0, 2.0]], [[0.0, 6.0], [0.0, 0.0]]]])
C = torch.tensor([[[[0.0, 9.0], [1.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]]]])


def test_scales_by_hand() -> None:
    assert scaled(A, "none") is A
    assert scaled(A, "maximum").flatten().tolist() == [1, 0.5, 0, 0.5, 0, 0, 0, 0]
    assert scaled(A, "mass").flatten().tolist() == [2, 1, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("how", ["maximum", "mass"])
def test_a_scaled_map_has_lost_the_size_of_its_scores(how: str) -> None:
    torch.testing.assert_close(scaled(A * 1e-6, how), scaled(A, how))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["none", "maximum", "mass"])
def test_what_is_no_number_stays_so(how: str) -> None:
    broken = A.clone()
    broken[0, 0, 0, 0] = torch.nan
    assert scaled(broken, how)[0, 0].isnan().any()  # type: ignore[arg-type]
    assert scaled(broken, how)[0, 1].eq(0).all()  # type: ignore[arg-type]


def test_combinations_by_hand() -> None:
    mean = combined([A, B, C])
    torch.testing.assert_close(mean[0, 0], torch.tensor([[5 / 3, 11 / 3], [2 / 3, 4 / 3]]))
    assert combined([A, B, C], "median")[0, 0].tolist() == [[1, 2], [1, 2]]
    assert combined([A, B], "median")[0, 0].tolist() == [[2.5, 1.0], [0.5, 2.0]]
    weight = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    weighted = combined([A, B, C], "auroc", weight)
    torch.testing.assert_close(weighted[0, 0], (3 * A + B)[0, 0] / 4)
    # Nobody is trusted with the second class: the plain mean.
    torch.testing.assert_close(weighted[0, 1], mean[0, 1])


@pytest.mark.parametrize("how", ["mean", "median", "auroc"])
def test_one_model_is_itself_and_equal_ones_agree(how: str) -> None:
    weight = torch.tensor([[0.2, 0.4]])
    torch.testing.assert_close(combined([A], how, weight), A)  # type: ignore[arg-type]
    three = combined([B, B, B], how, weight.expand(3, 2))  # type: ignore[arg-type]
    torch.testing.assert_close(three, B)


@pytest.mark.parametrize("how", ["mean", "median", "auroc"])
def test_a_broken_model_does_not_go_unseen(how: str) -> None:
    broken = C.clone()
    broken[0, 0, 1, 1] = torch.nan
    made = combined([A, B, broken], how, torch.ones(3, 2))  # type: ignore[arg-type]
    assert made.isnan().nonzero().tolist() == [[0, 0, 1, 1]]


def test_trust_is_what_is_above_chance() -> None:
    found = trust(torch.tensor([[0.9, 0.5, 0.3, torch.nan]]))
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.0, 0.0, 0.0]]))


def test_what_cannot_be_combined() -> None:
    with pytest.raises(ValueError, match="no maps"):
        combined([])
    with pytest.raises(ValueError, match="needs the AUROC"):
        combined([A, B], "auroc")
