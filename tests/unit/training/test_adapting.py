"""What is trained: frozen encoders, low-rank updates by hand, rates by depth."""

import numpy as np
import pytest
import torch
from chexseg_platform.config import Segmenter
from chexseg_platform.models.checkpoints import load_exactly
from chexseg_platform.models.segmenter import SegmenterSpec, build_segmenter, encoder_of
from chexseg_platform.training.adapting import (
    LowRank,
    adapt,
    add_low_rank,
    freeze_encoder,
    has_updates,
    merged_state,
    parameter_groups,
    trained_share,
)
from torch import Tensor, nn

KINDS = ["tu-test_resnet", "resnet18", "densenet121", "efficientnet-b0", "mit_b0"]


def segmenter(encoder: str = "tu-test_resnet", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    options = {"decoder_channels": [16, 16, 8, 8, 8]}
    spec = SegmenterSpec(architecture="Unet", encoder=encoder, classes=("a", "b"), options=options)
    return build_segmenter(spec)


class Net(nn.Module):
    """A segmenter small enough to count: two feature maps, the deeper one registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.segmentation_head = nn.Conv2d(4, 2, 1, bias=False)
        self.encoder = Encoder()
        self.decoder = nn.Conv2d(6, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        _, fine, deep = self.encoder(image)
        return self.segmentation_head(self.decoder(torch.cat((fine, deep), dim=1)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(4, 2, 3, padding=1, groups=2, bias=False)
        self.unused = nn.Linear(3, 5)
        self.fine = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.norm(self.fine(image))
        return [image, fine, self.deep(self.drop(fine))]


def learn(model: nn.Module, steps: int = 3, size: int = 32) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(torch.randn(2, 1, size, size, generator=generator)).square().mean().backward()
        optimizer.step()


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_frozen_encoder_does_not_change_at_all_and_the_rest_does() -> None:
    model = segmenter()
    freeze_encoder(model)
    before = copies(model)
    learn(model)
    for name, value in model.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(value, before[name]), name
        elif name.endswith(("weight", "bias")):
            assert not torch.equal(value, before[name]), name
    assert any("running_mean" in name for name in before if name.startswith("encoder."))


def test_a_frozen_encoder_says_the_same_in_training() -> None:
    net = Net()
    freeze_encoder(net)
    image = torch.randn(2, 1, 8, 8)
    wanted = [each.clone() for each in net.eval().encoder(image)]
    for found in (net.train().encoder(image), net.train().encoder(image)):
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert not any(module.training for module in net.encoder.modules())
    assert net.decoder.training


def test_an_update_by_hand() -> None:
    update = LowRank(torch.zeros(2, 1, 1, 3), 4, torch.Generator().manual_seed(0))
    assert (update.B.shape, update.A.shape) == ((2, 2), (2, 3))  # no matrix of 2 x 3 has rank 4
    assert update.B.eq(0).all()
    assert update.A.abs().max() <= 3**-0.5
    with torch.no_grad():
        update.A.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
        update.B.copy_(torch.tensor([[1.0, 0.0], [3.0, -1.0]]))
    # B A is [[1, 0, 2], [3, -1, 6]]; asked for rank 4, it counts 8 / 4 times.
    weight = torch.arange(6.0).view(2, 1, 1, 3)
    wanted = torch.tensor([[2.0, 1.0, 6.0], [9.0, 2.0, 17.0]]).view(2, 1, 1, 3)
    assert torch.equal(update(weight), wanted)


@pytest.mark.parametrize("encoder", KINDS)
def test_low_rank_updates_begin_as_nothing_and_end_as_a_plain_segmenter(encoder: str) -> None:
    model = segmenter(encoder)
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        before = model.eval()(image)
    add_low_rank(model, 4, seed=5)
    with torch.no_grad():
        assert torch.equal(model(image), before)
    merged = merged_state(model)
    assert set(merged) == set(plain)
    assert all(torch.equal(merged[name], value) for name, value in plain.items())

    learn(model)
    merged = merged_state(model)
    for name, value in plain.items():
        fixed = name.startswith("encoder.") and ("bias" in name or value.dim() < 2)
        assert not fixed or torch.equal(merged[name], value), name
    moved = {name for name, value in plain.items() if not torch.equal(merged[name], value)}
    assert any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("decoder.") for name in moved)
    other = segmenter(encoder, seed=9)
    load_exactly(other, merged, "merged")
    with torch.no_grad():
        assert torch.equal(other.eval()(image), model.eval()(image))


def test_updates_have_the_rank_that_was_asked_for() -> None:
    model = segmenter()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    add_low_rank(model, 2, seed=0)
    learn(model)
    ranks = []
    for name, value in merged_state(model).items():
        if name.startswith("encoder.") and value.dim() == 4:
            change = (value - before[name]).flatten(1).double().numpy()
            singular = np.linalg.svd(change, compute_uv=False)
            ranks.append(int((singular > 1e-4 * singular[0]).sum()))
    assert len(ranks) >= 8
    assert max(ranks) == 2


def test_first_values_of_updates_come_from_the_seed() -> None:
    states = []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        model = segmenter()
        torch.manual_seed(noise)
        add_low_rank(model, 4, seed)
        states.append(model.state_dict())
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_is_trained_is_counted_by_hand() -> None:
    # Head 8, decoder 28; encoder: 36 + 4 of fine, 8 of its norm, 36 of deep, 20 unused.
    full, frozen, low = Net(), Net(), Net()
    assert trained_share(full) == (140, 140)
    adapt(full, Segmenter(), 0)
    assert trained_share(full) == (140, 140)
    adapt(frozen, Segmenter(adapt="frozen-encoder"), 0)
    assert trained_share(frozen) == (36, 140)
    adapt(low, Segmenter(adapt="low-rank", rank=2), 0)
    # Matrices of 4 x 9, 2 x 18 (two groups of two channels) and 5 x 3, all of rank 2.
    updates = 2 * (4 + 9) + 2 * (2 + 18) + 2 * (5 + 3)
    assert trained_share(low) == (36 + updates, 140 + updates)
    assert [has_updates(model) for model in (full, frozen, low)] == [False, False, True]


def names_by_factor(model: nn.Module, size: int, **fields: object) -> dict[float, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = Segmenter.model_validate(fields)
    groups = parameter_groups(model, settings, size)
    return {g["factor"]: {names[id(p)] for p in g["params"]} for g in groups}


def test_each_part_learns_more_slowly_than_the_one_above() -> None:
    found = names_by_factor(Net(), 8, layer_decay=0.5)
    assert found == {
        1.0: {"segmentation_head.weight"},
        0.5: {"decoder.weight", "decoder.bias"},
        0.25: {"encoder.deep.weight", "encoder.unused.weight", "encoder.unused.bias"},
        0.125: {
            "encoder.fine.weight", "encoder.fine.bias", "encoder.norm.weight", "encoder.norm.bias",
        },
    }  # fmt: skip
    model = Net()
    model.train()
    assert names_by_factor(model, 8) == {1.0: set(dict(model.named_parameters()))}
    parameter_groups(model, Segmenter(layer_decay=0.5), 8)
    assert all(module.training for module in model.modules())
    assert torch.equal(model.encoder.norm.running_mean, torch.zeros(4))


def test_only_what_is_trained_has_a_rate() -> None:
    frozen = Net()
    freeze_encoder(frozen)
    found = names_by_factor(frozen, 8, layer_decay=0.5)
    assert found == {1.0: {"segmentation_head.weight"}, 0.5: {"decoder.weight", "decoder.bias"}}
    low = Net()
    add_low_rank(low, 2, 0)
    found = names_by_factor(low, 8, layer_decay=0.5)
    inside = "parametrizations.weight.0"
    assert found[0.125] == {f"encoder.fine.{inside}.A", f"encoder.fine.{inside}.B"}
    assert set(found) == {1.0, 0.5, 0.25, 0.125}


@pytest.mark.parametrize("encoder", KINDS)
def test_stages_of_an_encoder_follow_its_depth(encoder: str) -> None:
    model = segmenter(encoder)
    found = names_by_factor(model, 32, layer_decay=0.5)
    assert set.union(*found.values()) == set(dict(model.named_parameters()))
    assert sum(map(len, found.values())) == len(list(model.parameters()))
    depths = sorted(found, reverse=True)
    assert depths == [0.5**power for power in range(len(depths))]
    # Head and decoder, and a stage for each map that has channels: mit_b0 has four.
    assert len(depths) == 2 + sum(1 for n in encoder_of(model).out_channels[1:] if n)
    first, last = found[depths[-1]], found[depths[2]]
    stems = {"resnet18": "conv1", "densenet121": "features.conv0", "mit_b0": "patch_embed1.proj"}
    ends = {"resnet18": "layer4.1.conv2", "mit_b0": "block4.1.mlp.fc2"}
    ends["densenet121"] = "features.denseblock4.denselayer16.conv2"
    if encoder in stems:
        assert f"encoder.{stems[encoder]}.weight" in first
        assert f"encoder.{ends[encoder]}.weight" in last
