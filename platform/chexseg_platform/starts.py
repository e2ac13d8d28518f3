"""What `segmenter.init` may say: where a segmenter's first weights come from."""

from __future__ import annotations

PLAIN = ("random", "imagenet", "classifier")
KINDS = (*PLAIN, "pretrained", "encoder", "segmenter")
MEANT = (
    "random, imagenet, classifier, pretrained:<family> or encoder:<family> (of pretrain.families), "
    "or segmenter:<folder of a segmenter>"
)
"""All of it in words, for messages."""


def folder_of(init: str) -> str | None:
    """Return the folder in `segmenter:<folder>`; None for every other start."""
    return _after("segmenter", init)


def family_of(init: str) -> str | None:
    """Return the family in `pretrained:<family>` and `encoder:<family>`; None for the others."""
    return _after("pretrained", init) or _after("encoder", init)


def is_encoder(init: str) -> bool:
    """Whether a start of a family is its encoder alone."""
    return _after("encoder", init) is not None


def _after(kind: str, init: str) -> str | None:
    found, _, rest = init.partition(":")
    return rest if found == kind and rest else None
