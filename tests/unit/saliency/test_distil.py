"""Maps of several models made one: by hand, and what must not depend on what."""

import pytest
import torch
from chexseg_platform.saliency.distil import combined, completeness_weight, scaled, trust

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


def test_a_broken_map_of_a_model_without_weight_does_no_harm() -> None:
    weight = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    made = combined([A, torch.full_like(B, torch.nan)], "auroc", weight)
    torch.testing.assert_close(made[0, 0], A[0, 0])
    assert made[0, 1].isnan().all()


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


def test_single_maps_are_trusted_by_hand() -> None:
    # The first class by all three, 1 : 3 : 0; the second by the last alone.
    sure = torch.tensor([[[0.25, 0.0]], [[0.75, 0.0]], [[0.0, 0.1]]])
    mean = combined([A, B, C], trust_MBK=sure)
    torch.testing.assert_close(mean[0, 0], (A + 3 * B)[0, 0] / 4)
    torch.testing.assert_close(mean[0, 1], C[0, 1])
    # AUROC's 3 : 1 : 0 makes it 3 : 3 : 0; of the second class none is above chance.
    auroc = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    weighted = combined([A, B, C], "auroc", auroc, sure)
    torch.testing.assert_close(weighted[0, 0], (A + B)[0, 0] / 2)
    torch.testing.assert_close(weighted[0, 1], C[0, 1])
    middle = combined([A, B, C], "median", trust_MBK=sure)
    assert middle[0, 0].tolist() == [[2.5, 1.0], [0.5, 2.0]]  # of two, however they are trusted
    assert torch.equal(middle[0, 1], C[0, 1])
    three = combined([A, B, C], "median", trust_MBK=torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1))
    assert torch.equal(three, combined([A, B, C], "median"))


@pytest.mark.parametrize("how", ["mean", "median", "auroc"])
def test_trust_is_of_each_image(how: str) -> None:
    sure = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
    weight = torch.tensor([[0.4, 0.2], [0.1, 0.2]])
    made = combined([torch.cat([A, C]), torch.cat([C, B])], how, weight, sure)  # type: ignore[arg-type]
    torch.testing.assert_close(made, torch.cat([A, B]))


@pytest.mark.parametrize("how", ["mean", "median", "auroc"])
def test_equal_trust_changes_nothing(how: str) -> None:
    weight = torch.tensor([[0.3, 0.0], [0.1, 0.0], [0.2, 0.0]])
    plain = combined([A, B, C], how, weight)  # type: ignore[arg-type]
    sure = torch.full((3, 1, 2), 0.3)
    torch.testing.assert_close(combined([A, B, C], how, weight, sure), plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["mean", "median", "auroc"])
def test_what_nobody_is_trusted_with_is_not_known(how: str) -> None:
    weight = torch.tensor([[0.4, 0.0], [0.0, 0.0]])
    sure = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])
    made = combined([A, B], how, weight, sure)  # type: ignore[arg-type]
    assert made[0, 0].isnan().all()
    torch.testing.assert_close(made[0, 1], A[0, 1])
    # AUROC trusts the first alone with this class, and completeness the second with this map.
    second = torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]])
    assert combined([A, B], "auroc", weight, second)[0, 0].isnan().all()


@pytest.mark.parametrize("how", ["mean", "median", "auroc"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_broken_map_has_no_say_unless_it_is_trusted(how: str, bad: float) -> None:
    broken = C.clone()
    broken[0, 0, 1, 1] = bad
    weight = torch.ones(3, 2)
    for trusted in (0.0, 1.0):
        sure = torch.tensor([1.0, 1.0, trusted]).view(3, 1, 1).expand(3, 1, 2)
        made = combined([A, B, broken], how, weight, sure)  # type: ignore[arg-type]
        if trusted == 0.0:
            torch.testing.assert_close(made, (A + B) / 2)
        elif bad != bad:
            assert made.isnan().nonzero().tolist() == [[0, 0, 1, 1]]


def test_completeness_by_hand() -> None:
    error = torch.tensor([0.0, 0.05, 0.1, 0.2, 7.0, torch.inf, torch.nan]).view(7, 1, 1)
    wanted = torch.tensor([1.0, 0.75, 0.5, 0.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(completeness_weight(error, 0.2).flatten(), wanted)
    for limit in (0.0, -1.0, torch.nan):
        with pytest.raises(ValueError, match="above 0"):
            completeness_weight(error, limit)


def test_what_cannot_be_combined() -> None:
    with pytest.raises(ValueError, match="no maps"):
        combined([])
    with pytest.raises(ValueError, match="needs the AUROC"):
        combined([A, B], "auroc")
    with pytest.raises(ValueError, match="needs the AUROC"):
        combined([A, B], "auroc", trust_MBK=torch.ones(2, 1, 2))
