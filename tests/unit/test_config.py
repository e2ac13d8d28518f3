"""The sections: what is refused, and what an arm inherits."""

import pytest
from chexseg_platform.config import (
    Data,
    Evaluation,
    Experiment,
    IRNet,
    Phantom,
    Resources,
    Segmenter,
    Table,
)
from pydantic import ValidationError


def experiment(**fields):
    return Experiment.model_validate({"name": "x", "data": {"phantom": {}}, **fields})


def problems(**fields):
    with pytest.raises(ValidationError) as caught:
        experiment(**fields)
    return {".".join(map(str, item["loc"])): item["msg"] for item in caught.value.errors()}


def test_the_default_arms_are_the_comparison_of_the_paper():
    made = experiment()
    chances = {name: made.arm(name).expert_probability for name in made.arms}
    assert chances == {"expert only": 1.0, "pseudo only": 0.0, "mix": 0.9}


def test_exactly_one_source_of_images():
    table = {"table": "train.csv", "split": "train"}
    assert Data(tables=[Table(**table)]).phantom is None
    assert Data(phantom=Phantom()).tables == []
    for both_or_neither in ({}, {"phantom": {}, "tables": [table]}, {"tables": []}):
        with pytest.raises(ValidationError, match=r"one of data\.phantom, data\.tables and"):
            Data.model_validate(both_or_neither)


def test_an_arm_overrides_the_segmenter_field_by_field():
    made = experiment(
        segmenter={"lr": 3e-4, "augment": {"rotate": 10.0}},
        arms={"a": {"epochs": 2, "augment": {"flip": 0.5}}, "b": {}},
    )
    arm = made.arm("a")
    assert (arm.lr, arm.epochs) == (3e-4, 2)
    assert (arm.augment.rotate, arm.augment.flip) == (10.0, 0.5)
    assert made.arm("b") == made.segmenter


def test_a_point_of_a_sweep_is_the_experiment_with_some_fields_replaced():
    made = experiment(
        classifier={"encoder": "resnet18", "augment": {"flip": 0.5, "scale": 0.1}},
        segmenter={"options": {"decoder_channels": 64}},
    )
    point = made.variant(
        {
            "lr": 1e-3,
            "segmenter.loss": "bce",
            "segmenter.options.decoder_atrous_rates": [2, 4, 6],
            "classifier.encoder": "resnet34",
            "classifier.augment.flip": 0.0,
            "saliency.threshold": 0.5,
        }
    )
    assert point.segmenter.model_dump() == made.segmenter.model_dump() | {
        "lr": 1e-3, "loss": "bce",
        "options": {"decoder_channels": 64, "decoder_atrous_rates": [2, 4, 6]},
    }  # fmt: skip
    assert (point.classifier.encoder, point.classifier.lr) == ("resnet34", made.classifier.lr)
    assert (point.classifier.augment.flip, point.classifier.augment.scale) == (0.0, 0.1)
    assert point.saliency == made.saliency.model_copy(update={"threshold": 0.5})
    same = {"name", "seed", "data", "arms", "seeds", "evaluation", "resources"}
    assert all(getattr(point, name) == getattr(made, name) for name in same)
    assert made.variant({}) == made
    assert made.variant({"classifier.augment": {"flip": 0.0}}).classifier.augment.scale == 0.1


def test_every_wrong_field_of_every_arm_is_reported_in_its_place():
    found = problems(
        seed=-1,
        arms={"a": {"lrr": 1.0, "epochs": "two"}, "b": {"expert_probability": 1.5}},
        tune={
            "space": {
                "lr": [1e-3, -1.0], "nonsense": [1], "classifier.lr": [1e-3, 0.0],
                "saliency.treshold": [0.5], "segmenter.loss": ["dise"],
            }
        },
    )  # fmt: skip
    assert set(found) == {
        "seed", "arms.a.lrr", "arms.a.epochs", "arms.b.expert_probability", "tune.space.lr",
        "tune.space.nonsense", "tune.space.classifier.lr", "tune.space.saliency.treshold",
        "tune.space.segmenter.loss",
    }  # fmt: skip


def test_no_training_of_its_own_held_patients():
    for fields in (
        {"arms": {"a": {"expert_validation": 0.3}}},
        {"tune": {"space": {"expert_validation": [0.1, 0.3]}}},
        {"tune": {"space": {"segmenter.expert_validation": [0.1, 0.3]}}},
    ):
        (message,) = problems(**fields).values()
        assert "all trainings share the held patients" in message


@pytest.mark.parametrize("place", ["seeds", "tune.seeds"])
def test_seeds_are_given_once_and_are_not_negative(place):
    for seeds, words in (([0, 1, 0], "the same seed twice"), ([], "at least 1"), ([-1], "greater")):
        fields = {"tune": {"seeds": seeds}} if "tune" in place else {"seeds": seeds}
        (message,) = problems(**fields).values()
        assert words in message


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "at least 1"),
        ({"lr": []}, "lr has no values"),
        ({"lr": [1e-3, 0.001]}, "lr has the same value twice"),
        ({"augment": [{"flip": 0.5}, {"flip": 0.5}]}, "augment has the same value twice"),
        ({"lr": [1e-3], "segmenter.lr": [1e-4]}, "segmenter.lr is given twice"),
        ({"data.size": [64, 128]}, "data.size cannot be swept, only fields of segmenter, class"),
        ({"seed": [1, 2]}, "seed cannot be swept"),
        ({"resources.workers": [1, 2]}, "resources.workers cannot be swept"),
        ({"saliency": ["otsu"]}, "saliency cannot be swept, only fields of"),
    ],
)
def test_a_sweep_has_values_each_once(space, words):
    (message,) = problems(tune={"space": space}).values()
    assert words in message


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("segmenter", "lr", float("nan")),
        ("segmenter", "lr", float("inf")),
        ("segmenter", "lr", 0.0),
        ("segmenter", "lr", "0.1"),
        ("segmenter", "lr", True),
        ("segmenter", "batch_size", 4.0),
        ("segmenter", "expert_probability", 1.01),
        ("segmenter", "expert_validation", 1.0),
        ("segmenter", "threshold", "otsu"),
        ("segmenter", "max_repeats", 0),
        ("classifier", "uncertain", "maybe"),
        ("classifier", "output_stride", 4),
        ("saliency", "threshold", 2.0),
        ("saliency", "splits", []),
        ("saliency", "gate", None),
        ("resources", "workers", 0),
        ("resources", "gpus_per_worker", -1.0),
        ("evaluation", "resamples", 5),
    ],
)
def test_impossible_values_are_refused_and_never_converted(section, field, value):
    assert all(
        key.startswith(f"{section}.{field}") for key in problems(**{section: {field: value}})
    )


def test_null_means_what_the_field_says():
    made = experiment(segmenter={"expert_masks": None, "output_stride": None}, tune=None)
    assert (made.segmenter.expert_masks, made.tune) == (None, None)
    assert set(problems(saliency=None, seed=None)) == {"saliency", "seed"}


def test_sections_do_not_change_and_share_nothing():
    first, second = Segmenter(), Segmenter()
    with pytest.raises(ValidationError, match="frozen"):
        first.lr = 1.0
    first.options["x"] = 1
    assert second.options == {}
    experiment().data.views.append("oblique")
    assert experiment().data.views == ["frontal", "lateral"]
    assert Resources().workers == "auto"


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65, "x\n"])
def test_a_name_is_one_that_folders_and_trackers_take(name):
    with pytest.raises(ValidationError):
        Experiment.model_validate({"name": name, "data": {"phantom": {}}})


@pytest.mark.parametrize("name", ["radiologists", "pseudo-labels", "mix (p=0.9)", "", "a/b"])
def test_names_of_arms_that_the_comparison_cannot_carry(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        Experiment(name="x", data=Data(phantom=Phantom()), arms={name: {}})


def test_validation_images_cannot_be_evaluated_on():
    with pytest.raises(ValidationError, match="test"):
        Evaluation(split="valid")


def ensemble(*entries: dict) -> Experiment:
    data = {"phantom": {"train": 4}, "size": 64}
    fields = {"name": "e", "data": data, "saliency": {"ensemble": list(entries)}}
    return Experiment.model_validate(fields)


def test_members_of_an_ensemble_differ_in_classifier_and_seed() -> None:
    made = ensemble({"encoder": "resnet18", "epochs": 1.0}, {"seed": 5})
    assert [m.classifier.encoder for m in made.members] == [
        "densenet121",
        "resnet18",
        "densenet121",
    ]
    assert [m.seed for m in made.members] == [17, 17, 5]
    assert made.members[1].classifier.epochs == 1.0
    assert made.members[1].segmenter == made.segmenter


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"encodr": "resnet18"}], "encodr"),
        ([{"seed": -1}], "greater than or equal to 0"),
        ([{}], "the same classifier twice"),
        ([{"seed": 3}, {"seed": 3}], "the same classifier twice"),
    ],
)
def test_an_ensemble_that_makes_no_sense(entries: list[dict], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ensemble(*entries)


def test_boundaries_are_learned_from_regions_that_do_not_overlap():
    assert IRNet(foreground=0.3, background=0.3).refine == "guided"
    with pytest.raises(ValidationError, match="background must not be above foreground"):
        IRNet(foreground=0.1, background=0.2)
    with pytest.raises(ValidationError, match="cannot have its weights"):
        IRNet(encoder="resnet18")
    assert IRNet(encoder="resnet18", weights=None).output_stride is None
    for wrong in ({"radius": 1}, {"walk_radius": 1}, {"beta": 0.0}, {"refine": "crf"}):
        with pytest.raises(ValidationError):
            IRNet.model_validate(wrong)
