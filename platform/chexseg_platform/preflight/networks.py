"""Checks of the networks: each that an experiment will train is built once, without weights.

So a wrong name, option, size or start is found now and not on a worker, and the message names the
field to change. Of first weights only the description is read; the network that it describes is
built to see whether it fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from chexseg_platform import starts
from chexseg_platform.config import Experiment, Segmenter, Tune, swept_field
from chexseg_platform.models import checkpoints, first_weights, segmenter
from chexseg_platform.models.boundary import build_boundary
from chexseg_platform.models.classifier import Classifier, build_classifier
from chexseg_platform.models.encoder import UnknownEncoder, UnsuitableEncoder
from chexseg_platform.preflight.problems import Problem
from chexseg_platform.saliency import gradcam
from chexseg_platform.training import boundary, classification, segmentation

ENSEMBLE = "saliency.ensemble"
FIELDS: tuple[tuple[type[Exception], str], ...] = (
    (UnknownEncoder, "encoder"),
    (UnsuitableEncoder, "encoder"),
    (segmenter.UnknownArchitecture, "architecture"),
    (segmenter.UnknownOption, "options"),
    (segmenter.UnsuitableStride, "output_stride"),
    (checkpoints.WrongArchitecture, "init"),
    (checkpoints.CorruptCheckpoint, "init"),
    (first_weights.NoWeights, "init"),
)
"""Which field of a segmenter an error is about."""


@dataclass(frozen=True)
class Wanted:
    """A segmenter to train.

    Attributes:
        place: where a file asks for it.
        overrides: dotted fields that are overridden for it, and where each of these is.
        experiment: with what is overridden.
    """

    place: str
    overrides: Mapping[str, str]
    experiment: Experiment

    @property
    def settings(self) -> Segmenter:
        return self.experiment.segmenter

    def field(self, name: str) -> str:
        """Return the field of the file that sets a dotted field here."""
        set_at = (at for key, at in self.overrides.items() if f"{key}.".startswith(f"{name}."))
        return next(set_at, name)


def wanted_of(
    experiment: Experiment,
    *,
    arms: bool,
    sweep: bool,
    pretrain: bool = False,
    finetune: bool = False,
) -> list[Wanted]:
    """Return the segmenters of the arms, of every point of the sweep, and of pre-training and
    fine-tuning, where asked for."""
    found = [
        *(_pretrained(experiment) if pretrain else ()),
        *(_finetuned(experiment) if finetune else ()),
    ]
    for name, fields in experiment.arms.items() if arms else ():
        place = f"arms.{name}"
        found.append(Wanted(place, _set_at(place, fields), experiment.variant(fields)))
    space = (experiment.tune or Tune()).space
    for values in product(*space.values()) if sweep else ():
        fields = dict(zip(space, values, strict=True))
        overrides = _set_at("tune.space", fields)
        found.append(Wanted("tune.space", overrides, experiment.variant(fields)))
    return found


def _set_at(place: str, fields: Iterable[str]) -> dict[str, str]:
    return {swept_field(key): f"{place}.{key}" for key in fields}


def _pretrained(experiment: Experiment) -> Iterator[Wanted]:
    if experiment.pretrain is not None:
        shared = _set_at("pretrain.segmenter", experiment.pretrain.segmenter)
        for name, family in experiment.pretrain.families.items():
            variant, place = experiment.family(name), f"pretrain.families.{name}"
            overrides = _set_at(place, (f"saliency.{key}" for key in family.saliency))
            settings = {"segmenter": variant.pretraining}
            yield Wanted(place, overrides | shared, variant.model_copy(update=settings))


def _finetuned(experiment: Experiment) -> Iterator[Wanted]:
    if experiment.finetune is not None:
        shared = _set_at("finetune.segmenter", experiment.finetune.segmenter)
        for name, init in experiment.finetune.initialisations.items():
            place = f"finetune.initialisations.{name}"
            settings = {"segmenter": experiment.finetuning(init)}
            wish = experiment.model_copy(update=settings)
            yield Wanted(place, {"segmenter.init": place} | shared, wish)


def check_networks(
    experiment: Experiment, wanted: Sequence[Wanted], weights: Path, *, explained: bool = True
) -> Iterator[Problem]:
    """Yield what is wrong with the networks and their first weights, each once.

    Args:
        weights: folder of fetched encoder weights.
        explained: whether the classifiers that are explained count.
    """
    classifiers: dict[str, Classifier | None] = {}
    seen: set[str] = set()
    for item in (*(_explained(experiment) if explained else ()), *wanted):
        key = _classifier_key(item)
        if key not in classifiers:
            classifiers[key] = None
            yield from _classifier(item, classifiers, weights)
        yield from _boundary(item, seen, weights)
        if item.place in ("", ENSEMBLE):
            continue
        settings = item.settings
        start = f"{settings.init} {key if settings.init == 'classifier' else ''}"
        network = f"{segmentation.spec_of(settings)} {start}"
        if network not in seen:
            seen.add(network)
            yield from _segmenter(item, experiment, classifiers[key], weights)


def _explained(experiment: Experiment) -> Iterator[Wanted]:
    """Yield the experiment itself, and with the classifier of each further member."""
    entries: list[Mapping[str, Any]] = [{}, *experiment.saliency.ensemble]
    for fields, member in zip(entries, experiment.members, strict=True):
        prefixed = {f"classifier.{name}": value for name, value in fields.items()}
        place = ENSEMBLE if fields else ""
        yield Wanted(place, _set_at(place, prefixed), member)


def _classifier_key(item: Wanted) -> str:
    wish = item.experiment.classifier
    return f"{classification.spec_of(wish)} {wish.weights}"


def _classifier(
    item: Wanted, built: dict[str, Classifier | None], weights: Path
) -> Iterator[Problem]:
    wish = item.experiment.classifier
    try:
        made = built[_classifier_key(item)] = build_classifier(classification.spec_of(wish))
    except ValueError as error:
        yield Problem(f"{item.field('classifier.encoder')}: {error}")
    else:
        settings = item.experiment.saliency
        if settings.method == "grad-cam" and settings.features == "pre-relu":
            yield from _features(item, made)
    if wish.weights is not None:
        field = item.field("classifier.weights")
        yield from _encoder_weights(field, wish.weights, wish.encoder, weights)


def _boundary(item: Wanted, seen: set[str], weights: Path) -> Iterator[Problem]:
    """Check IRNet's network, where maps are refined; the classifier's encoder is checked before."""
    settings = item.experiment.saliency
    spec = boundary.spec_of(settings.irnet, item.experiment.classifier)
    key = f"{spec} {settings.irnet.weights}"
    if settings.refine == "none" or key in seen:
        return
    seen.add(key)
    if settings.irnet.encoder or settings.irnet.output_stride:
        try:
            build_boundary(spec)
        except ValueError as error:
            yield Problem(f"{item.field('saliency.irnet.encoder')}: {error}")
            return
    if settings.irnet.weights not in (None, "classifier"):
        field = item.field("saliency.irnet.weights")
        yield from _encoder_weights(field, settings.irnet.weights, spec.encoder, weights)
    if settings.irnet.refine == "dense-crf" and find_spec("pydensecrf") is None:
        yield Problem(
            f"{item.field('saliency.irnet.refine')}: dense-crf needs another package: "
            "`pip install pydensecrf2`, or take guided"
        )


def _features(item: Wanted, classifier: Classifier) -> Iterator[Problem]:
    try:
        gradcam.check_features(classifier, "pre-relu")
    except ValueError as error:
        yield Problem(f"{item.field('saliency.features')}: {error}")


def _segmenter(
    item: Wanted, base: Experiment, classifier: nn.Module | None, weights: Path
) -> Iterator[Problem]:
    settings = item.settings
    if settings.init == "imagenet":
        field = item.field("segmenter.init")
        yield from _encoder_weights(field, "imagenet", settings.encoder, weights)
    start = None
    try:
        start = _start(settings.init, base, classifier)
    except ValueError as error:
        # The network is built all the same: it may be wrong, too.
        yield _about(item, error)
    try:
        segmentation.initial_model(settings, item.experiment.data.size, 0, start)
    except segmenter.UnsuitableSize as error:
        yield Problem(f"data.size: {error}")
    except ValueError as error:
        yield _about(item, error)


def _about(item: Wanted, error: ValueError) -> Problem:
    name = next((name for kind, name in FIELDS if isinstance(error, kind)), None)
    return Problem(f"{item.field(f'segmenter.{name}') if name else item.place}: {error}")


def _start(
    init: str, experiment: Experiment, classifier: nn.Module | None
) -> segmentation.Start | None:
    """Return a start of the right shapes and no meaning."""
    if starts.family_of(init) is not None:
        spec = segmentation.spec_of(experiment.pretraining)
        kind = "encoder" if starts.is_encoder(init) else "segmenter"
        return _shape(spec, kind)
    if init == "classifier":
        if classifier is None:
            return None
        holds = f"It holds a classifier on {experiment.classifier.encoder}."
        return segmentation.Start("classifier", classifier.state_dict(), holds)
    if init in starts.PLAIN:
        return None
    folder = starts.folder_of(init)
    if folder is None:
        near = get_close_matches(init.partition(":")[0], starts.KINDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise first_weights.NoWeights(f"{init!r} is no start; it is {starts.MEANT}.{hint}")
    meta = first_weights.describe(folder)["meta"]
    checkpoints.require_kind(meta, "segmenter")
    return _shape(segmenter.SegmenterSpec.from_dict(meta.get("spec", {})), "segmenter")


def _shape(spec: segmenter.SegmenterSpec, kind: str) -> segmentation.Start:
    state = segmenter.build_segmenter(spec).state_dict()
    return segmentation.Start(kind, state, f"It holds {spec}.", spec.classes)


def _encoder_weights(field: str, wish: str, encoder: str, cache: Path) -> Iterator[Problem]:
    folder = str(cache / encoder) if wish == "imagenet" else wish
    try:
        meta = first_weights.describe(folder)["meta"]
        checkpoints.require_kind(meta, "encoder")
    except first_weights.NoWeights as error:
        yield Problem(
            f"{field}: {error}. With a network: `chexseg-platform fetch-weights {encoder}`; "
            "without: start from random weights"
        )
    except ValueError as error:
        yield Problem(f"{field}: {folder}: {error}")
    else:
        if meta.get("encoder") != encoder:
            yield Problem(
                f"{field}: {folder} holds weights of {meta.get('encoder')}, not {encoder}"
            )
