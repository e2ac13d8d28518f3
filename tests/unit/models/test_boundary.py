"""The boundary network: a frozen encoder, two branches on one grid, a mean that is taken away."""

import pytest
import torch
from chexseg_platform.models import checkpoints
from chexseg_platform.models.boundary import (
    BoundaryNetwork,
    BoundarySpec,
    MeanShift,
    build_boundary,
    dump_boundary,
    load_boundary,
)
from chexseg_platform.models.preprocess import Preprocess

TINY = BoundarySpec(encoder="tu-test_resnet")


@pytest.fixture(scope="module")
def tiny() -> BoundaryNetwork:
    torch.manual_seed(0)
    return build_boundary(TINY)


@pytest.mark.parametrize(("side", "cells"), [(32, 8), (64, 16), (50, 13)])
def test_the_grid_has_a_quarter_of_the_side(tiny, side: int, cells: int) -> None:
    image = torch.randn(2, 1, side, side)
    logit, displacement = tiny.eval()(image)
    assert logit.shape == (2, 1, cells, cells)
    assert displacement.shape == (2, 2, cells, cells)
    edge = tiny.boundaries(image)
    assert torch.equal(edge, logit[:, 0].sigmoid())
    assert edge.dtype == torch.float32


@pytest.mark.parametrize("encoder", ["mit_b0", "densenet121", "efficientnet-b0"])
def test_encoders_of_other_families(encoder: str) -> None:
    logit, displacement = build_boundary(BoundarySpec(encoder=encoder))(torch.randn(1, 1, 64, 64))
    assert (logit.shape, displacement.shape) == ((1, 1, 16, 16), (1, 2, 16, 16))


def test_dilated_encoders_give_the_same_grid() -> None:
    spec = BoundarySpec(encoder="resnet18", output_stride=8)
    assert build_boundary(spec)(torch.randn(1, 1, 64, 64))[0].shape == (1, 1, 16, 16)


def test_a_step_changes_the_branches_and_nothing_of_the_encoder() -> None:
    torch.manual_seed(0)
    model = build_boundary(TINY).train()
    assert model.boundary_head.training
    assert not any(part.training for part in model.encoder.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    logit, displacement = model(torch.randn(2, 1, 32, 32))
    (logit.mean() + displacement.square().mean()).backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        frozen = name.startswith("encoder.")
        assert torch.equal(value, before[name]) == frozen, name
    assert all(
        parameter.requires_grad != name.startswith("encoder.")
        for name, parameter in model.named_parameters()
    )


def test_mean_displacement_is_taken_away_in_eval_mode_only() -> None:
    shift = MeanShift(2).train()
    first, second = torch.full((1, 2, 3, 3), 2.0), torch.full((4, 2, 3, 3), 4.0)
    second[:, 1] = 0.0
    assert torch.equal(shift(first), first)
    assert torch.equal(shift(second), second)
    assert shift.eval()(first)[0, :, 0, 0].tolist() == [-1.0, 1.0]  # the means are 3 and 1
    shift.train()
    for _ in range(200):
        shift(second)
    torch.testing.assert_close(shift.mean, torch.tensor([4.0, 0.0]))


def test_checkpoint_round_trip_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    model = build_boundary(TINY).train()
    image = torch.randn(2, 1, 32, 32)
    model(image)  # gives the running mean a value
    preprocess = Preprocess(0.5, 0.25)
    again, meta = load_boundary(dump_boundary(model, preprocess, {"size": 32}))
    assert again.spec == TINY
    assert not again.training
    assert Preprocess.from_dict(meta["preprocess"]) == preprocess
    assert meta["extra"] == {"size": 32}
    with torch.no_grad():
        for one, other in zip(again(image), model.eval()(image), strict=True):
            assert torch.equal(one, other)
    assert not any(parameter.requires_grad for parameter in again.encoder.parameters())


def test_checkpoint_of_another_model_is_refused(tiny) -> None:
    state, meta = checkpoints.loads(dump_boundary(tiny, Preprocess(0.5, 0.25)))
    wrong = meta | {"spec": meta["spec"] | {"encoder": "resnet18"}}
    with pytest.raises(checkpoints.WrongArchitecture, match=r"no 'encoder\."):
        load_boundary(checkpoints.dumps(state, wrong))
    with pytest.raises(checkpoints.WrongArchitecture, match="boundary is needed"):
        load_boundary(checkpoints.dumps(state, meta | {"kind": "classifier"}))
    with pytest.raises(checkpoints.CorruptCheckpoint, match="does not describe"):
        load_boundary(checkpoints.dumps(state, meta | {"spec": {"depth": 3}}))
    files = dump_boundary(tiny, Preprocess(0.5, 0.25))
    with pytest.raises(checkpoints.CorruptCheckpoint, match="sha256"):
        load_boundary(files | {"weights.safetensors": files["weights.safetensors"][:-1] + b"x"})
