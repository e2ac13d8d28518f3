"""Which of a segmenter's parameters are trained, and at which share of the learning rate.

A model that was trained before on many images and is adapted to few may keep its encoder as it
is (`freeze_encoder`), or learn low-rank updates of the encoder's weights (`add_low_rank`; LoRA,
Hu et al. 2021), or learn its first layers more slowly than its last (`parameter_groups`; ULMFiT,
Howard and Ruder 2018). What is published is a plain segmenter in any case (`merged_state`).

A frozen encoder is in eval mode whenever it is used: neither running statistics nor dropout
change what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from chexseg_platform import config
from chexseg_platform.models.segmenter import encoder_of
from chexseg_platform.training.loop import Group, one_group

SCALE = 8.0
"""An update is SCALE / rank times B A, so that another rank needs no other learning rate; 1 at
rank 8."""
DECODER = "decoder."
ENCODER = "encoder."


def adapt(model: nn.Module, settings: config.Segmenter, seed: int) -> None:
    """Prepare a segmenter that has its first weights for what its settings train of it."""
    if settings.adapt == "frozen-encoder":
        freeze_encoder(model)
    elif settings.adapt == "low-rank":
        add_low_rank(model, settings.rank, seed)


def freeze_encoder(model: nn.Module) -> None:
    """Keep a segmenter's encoder as it is: no gradient, and eval mode in every forward pass."""
    encoder = encoder_of(model).requires_grad_(False)
    # Whoever trains calls `model.train()` before each step, which reaches the encoder too.
    encoder.register_forward_pre_hook(_to_eval)


def _to_eval(encoder: nn.Module, _: Any) -> None:
    encoder.eval()


class LowRank(nn.Module):
    """A weight plus a low-rank update of it: W + (SCALE / rank) B A, in the shape of W.

    W is taken as a matrix, a row an output channel; so a grouped convolution's is (O, I / groups
    x height x width). B starts at 0, so nothing changes at first; A is uniform within one over the
    square root of its columns, as linear layers are.

    Args:
        weight: to be updated.
        rank: at most; no more than the matrix can have.
        generator: on the CPU, for A.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        inner = min(rank, rows, columns)
        within = columns**-0.5
        start = (torch.rand(inner, columns, generator=generator) * 2 - 1) * within
        self.scale = SCALE / rank
        self.A = nn.Parameter(start.to(weight))
        self.B = nn.Parameter(weight.new_zeros(rows, inner))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.B @ self.A).view_as(weight)


def add_low_rank(model: nn.Module, rank: int, seed: int) -> None:
    """Freeze a segmenter's encoder and give its convolutions and linear layers low-rank updates.

    Decoder and head stay as they are, and are trained.

    Args:
        rank: of each update, at most.
        seed: of the updates' first values.
    """
    freeze_encoder(model)
    generator = torch.Generator().manual_seed(seed)
    for module in list(encoder_of(model).modules()):
        if isinstance(module, nn.Conv2d | nn.Linear) and not parametrize.is_parametrized(module):
            update = LowRank(module.weight, rank, generator)
            parametrize.register_parametrization(module, "weight", update)


def has_updates(model: nn.Module) -> bool:
    """Whether a model has low-rank updates, so that its state is not the one it publishes."""
    return any(True for _ in _updated(model))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of the plain segmenter: low-rank updates added to their weights."""
    state: dict[str, Tensor] = dict(model.state_dict())
    for name, module in _updated(model):
        inner = f"{name}.parametrizations.weight."
        state = {key: value for key, value in state.items() if not key.startswith(inner)}
        state[f"{name}.weight"] = module.weight.detach()
    return state


def _updated(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            inner: Any = module.parametrizations
            if isinstance(inner.weight[0], LowRank):
                yield name, module


def trained_share(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are, updates included."""
    each = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in each if trained), sum(n for n, _ in each)


def parameter_groups(model: nn.Module, settings: config.Segmenter, size: int) -> list[Group]:
    """Return a segmenter's parameters in groups with their factor of the learning rate.

    The head has 1, the decoder `layer_decay`, and the encoder's stages, from the deepest to the
    first, one more power of it each. A stage of the encoder is what lies between two of the
    feature maps that it hands to the decoder: a parameter belongs to the first map that depends on
    it, by the graph of one forward pass. That is its depth in any encoder, whatever the order in
    which its layers were registered.

    Args:
        size: side of the segmenter's images.
    """
    if settings.layer_decay == 1.0:
        return one_group(model)
    stages = _stages(encoder_of(model), size)
    deepest = max(stages.values(), default=0)
    depth: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        below = 1 if name.startswith(DECODER) else 0
        if name.startswith(ENCODER):
            below = 2 + deepest - stages[name.removeprefix(ENCODER)]
        depth.setdefault(below, []).append(parameter)
    return [
        {"params": depth[below], "factor": settings.layer_decay**below} for below in sorted(depth)
    ]


def _stages(encoder: nn.Module, size: int) -> dict[str, int]:
    """Return the stage of each trained parameter of an encoder, 0 the first.

    One that no feature map depends on has no gradient; it is counted with the last stage.
    """
    named = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    if not named:
        return {}
    maps = _feature_maps(encoder, next(iter(named.values())).device, size)
    stage = dict.fromkeys(named, len(maps) - 1)
    for place in reversed(range(len(maps))):
        gradients = torch.autograd.grad(
            maps[place].sum(), list(named.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                stage[name] = place
    return stage


def _feature_maps(encoder: nn.Module, device: torch.device, size: int) -> list[Tensor]:
    """Feature maps of an empty image that depend on the encoder, from the finest to the deepest."""
    training = encoder.training
    found = encoder.eval()(torch.zeros(1, 1, size, size, device=device))
    encoder.train(training)
    # Encoders of DPT give their class tokens beside the maps.
    maps = found[0] if isinstance(found, tuple) else found
    return [map_ for map_ in maps if map_.requires_grad]
