import json
import shutil
from pathlib import Path

import pytest
import torch
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import (
    Collection,
    Data,
    Experiment,
    Finetune,
    Phantom,
    Resources,
    Saliency,
    Segmenter,
    Table,
    Task,
    Tune,
)
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.data.sources import phantom_tables, read_table
from chexseg_platform.data.splits import split_patients
from chexseg_platform.models import checkpoints
from chexseg_platform.models.preprocess import preset
from chexseg_platform.models.segmenter import SegmenterSpec, segmenter_meta
from chexseg_platform.preflight import Problem, check, inputs, problems, render
from PIL import Image


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "p"
    write_phantom(folder, train=12, valid=8, test=6, size=48, seed=3, workers=1)
    return folder


def tables(folder: Path) -> list[Table]:
    return phantom_tables(folder, Phantom(train=12, valid=8, test=6))


def experiment(some: list[Table], **fields: object) -> Experiment:
    model = {"architecture": "Unet", "encoder": "resnet18", **fields}
    return Experiment(
        name="x",
        data=Data(tables=some, size=64),
        classifier={"encoder": "resnet18"},
        segmenter=Segmenter(**model),  # type: ignore[arg-type]
    )


def fatal(wish: Experiment, tmp_path: Path) -> str:
    found = check(wish, Workspace(tmp_path / "w"), tmp_path / "weights", sweep=bool(wish.tune))
    return "\n".join(problem.text for problem in found if problem.fatal)


def test_a_sound_experiment_has_no_fatal_problem(phantom: Path, tmp_path: Path) -> None:
    assert fatal(experiment(tables(phantom)), tmp_path) == ""


def test_missing_images_are_listed_and_counted(phantom: Path, tmp_path: Path) -> None:
    train, *rest = tables(phantom)
    lines = Path(train.table).read_text().splitlines()
    moved = tmp_path / "train.csv"
    invented = [lines[1].replace("patient00001", f"patient{n:05d}") for n in (60001, 60002)]
    moved.write_text("\n".join([*lines, *invented]) + "\n")
    changed = train.model_copy(update={"table": str(moved), "root": str(Path(train.table).parent)})
    text = fatal(experiment([changed, *rest]), tmp_path)
    assert "2 of 28 images are not there" in text
    assert "patient60001" in text
    assert "patient60002" in text


def copied(phantom: Path, to: Path) -> Path:
    return Path(shutil.copytree(phantom, to))


def images(folder: Path, split: int) -> list[Path]:
    return [Path(entry.path) for entry in read_table(tables(folder)[split])]


def test_every_bad_image_is_listed_with_its_reason(phantom: Path, tmp_path: Path) -> None:
    folder = copied(phantom, tmp_path / "p")
    gone, cut, other, *_ = images(folder, 0)
    drawn = images(folder, 2)[0]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-2000])
    Image.new("L", (9, 9), 3).save(other, format="GIF")
    Image.effect_noise((48, 20), 9).save(drawn, format="PNG")
    text = fatal(experiment(tables(folder)), tmp_path)
    for reason in (
        "1 of 26 images are not there (3.8%; data.max_rejected is 1.0%):",
        "1 of 26 images are cut short",
        "1 of 26 images are no JPEG, PNG or DICOM",
        "1 of 26 images have another size than their expert masks",
    ):
        assert reason in text
    for path in (gone, cut, other, drawn):
        assert f"\n    {'/'.join(path.parts[-3:])}" in text or str(path.name) in text
    assert "The content is GIF" in text
    relaxed = experiment(tables(folder))
    data = relaxed.data.model_copy(update={"max_rejected": 0.5})
    assert fatal(relaxed.model_copy(update={"data": data}), tmp_path) == ""


def test_a_long_list_goes_to_a_file_that_is_named(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "LISTED", 5)
    monkeypatch.setattr(problems, "SHOWN", 2)
    folder = copied(phantom, tmp_path / "p")
    gone = images(folder, 0)
    for path in gone:
        path.unlink()
    text = fatal(experiment(tables(folder)), tmp_path)
    listed = tmp_path / "w" / "check" / "x.txt"
    assert f"and 10 more; all of them: {listed}" in text
    assert sum("view1" in line or "view2" in line for line in text.splitlines()) == 2
    assert all(path.stem in listed.read_text() for path in gone)
    assert len([line for line in listed.read_text().splitlines() if "patient" in line]) == 12


def test_more_images_than_can_be_opened_in_seconds_are_sampled(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "OPENED", 4)
    folder = copied(phantom, tmp_path / "p")
    found = check(experiment(tables(folder)), Workspace(tmp_path / "w"), tmp_path)
    assert any("of 26 images were opened, evenly spread" in problem.text for problem in found)
    # All that were opened are bad: so must be many of the others.
    for path in [path for split in range(3) for path in images(folder, split)]:
        path.write_bytes(b"")
    wish = experiment(tables(folder))
    data = wish.data.model_copy(update={"max_rejected": 0.5})
    assert "are cut short" in fatal(wish.model_copy(update={"data": data}), tmp_path)


def test_masks_of_unknown_images_are_listed_and_the_rest_is_checked(
    phantom: Path, tmp_path: Path
) -> None:
    folder = copied(phantom, tmp_path / "p")
    truth = Path(str(tables(folder)[1].truth))
    drawn = json.loads(truth.read_text())
    first = next(iter(drawn.values()))
    drawn |= {f"patient{n}_study1_view1_frontal": first for n in range(90000, 90008)}
    truth.write_text(json.dumps(drawn))
    images(folder, 0)[0].unlink()
    text = fatal(experiment(tables(folder)), tmp_path)
    assert "8 of the" in text
    assert "\n    patient90007_study1_view1_frontal" in text
    assert "are not there" in text
    assert "no valid table has any" not in text


def test_tables_and_images_given_twice(phantom: Path, tmp_path: Path) -> None:
    train, valid, test = tables(phantom)
    text = fatal(experiment([train, valid, test, train]), tmp_path)
    assert text == "data.tables.3 is the same table as data.tables.0: remove one"
    lines = Path(train.table).read_text().splitlines()
    (tmp_path / "more.csv").write_text("\n".join(lines[:3]) + "\n")
    root = str(Path(train.table).parent)
    more = train.model_copy(update={"table": str(tmp_path / "more.csv"), "root": root})
    text = fatal(experiment([train, more, valid, test]), tmp_path)
    assert text.startswith("train: 2 images are in more than one table")
    assert len(text.splitlines()) == 3
    text = fatal(
        experiment([train, valid, test, train.model_copy(update={"split": "valid"})]), tmp_path
    )
    assert "\n    patient00001 (train and valid)" in text


def test_tuned_thresholds_need_held_patients(phantom: Path, tmp_path: Path) -> None:
    wish = experiment(tables(phantom), expert_validation=0.0)
    assert fatal(wish, tmp_path).startswith("segmenter.threshold: tuned on held expert masks")
    arms = {"a": {"threshold": "tuned"}, "b": {}}
    model = wish.segmenter.model_copy(update={"threshold": 0.4})
    mixed = wish.model_copy(update={"segmenter": model, "arms": arms})
    assert fatal(mixed, tmp_path).startswith("arms.a.threshold: tuned")
    assert fatal(mixed.model_copy(update={"arms": {"b": {}}}), tmp_path) == ""
    tuned = Saliency(threshold="tuned")
    assert fatal(
        mixed.model_copy(update={"arms": {"b": {}}, "saliency": tuned}), tmp_path
    ).startswith("saliency.threshold: tuned")


def test_the_field_to_change_is_named(phantom: Path, tmp_path: Path) -> None:
    arms = {
        "mix": {"encoder": "resnet81"},
        "wide": {"options": {"no_such": 1}},
        "deep": {"output_stride": 8},
        "other": {"init": "classifier", "encoder": "mobilenet_v2"},
    }
    wish = experiment(tables(phantom)).model_copy(update={"arms": arms})
    text = fatal(wish, tmp_path)
    for start in (
        "arms.mix.encoder: 'resnet81' is no encoder",
        "arms.wide.options: Unet has no option 'no_such'",
        "arms.deep.output_stride: Unet sets its own",
        "arms.other.init: The classifier's encoder does not fit",
    ):
        assert start in text
    narrow = wish.data.model_copy(update={"size": 100})
    arms = {"a": {"architecture": "DeepLabV3Plus"}}
    assert fatal(wish.model_copy(update={"data": narrow, "arms": arms}), tmp_path) == (
        "data.size: This segmenter takes sides divisible by 16: not 100 but 96 or 112."
    )


def test_trials_of_a_sweep_are_built_where_it_is_asked_for(phantom: Path, tmp_path: Path) -> None:
    tune = Tune(space={"encoder": ["resnet18", "resnet81"]})
    wish = experiment(tables(phantom)).model_copy(update={"tune": tune})
    assert "tune.space.encoder: 'resnet81'" in fatal(wish, tmp_path)
    only = check(wish, Workspace(tmp_path / "w"), tmp_path)
    assert not any("resnet81" in problem.what for problem in only)


def test_first_weights_are_tried_on_without_reading_them(phantom: Path, tmp_path: Path) -> None:
    fitting, other, encoder = (str(tmp_path / name) for name in ("fitting", "other", "encoder"))
    for folder, name in ((fitting, "Unet"), (other, "FPN")):
        spec = SegmenterSpec(architecture=name, encoder="resnet18")
        state = {"x": torch.zeros(1)}  # never looked at
        checkpoints.save(Path(folder), state, segmenter_meta(spec, preset("chexpert")))
    checkpoints.save(Path(encoder), {"x": torch.zeros(1)}, {"kind": "encoder", "encoder": "vgg11"})
    assert fatal(experiment(tables(phantom), init=f"segmenter:{fitting}"), tmp_path) == ""
    assert "segmenter.init: The segmenter checkpoint does not fit" in fatal(
        experiment(tables(phantom), init=f"segmenter:{other}"), tmp_path
    )
    assert "segmenter.init: This checkpoint holds a encoder" in fatal(
        experiment(tables(phantom), init=f"segmenter:{encoder}"), tmp_path
    )
    wish = experiment(tables(phantom))
    for folder, said in (
        (encoder, "holds weights of vgg11, not resnet18"),
        (fitting, "holds a segmenter, where a encoder is"),
        (str(tmp_path / "no"), "is no folder of a model"),
    ):
        model = wish.classifier.model_copy(update={"weights": folder})
        text = fatal(wish.model_copy(update={"classifier": model}), tmp_path)
        assert text.startswith("classifier.weights: ")
        assert said in text


@pytest.mark.parametrize(
    ("saliency", "said"),
    [
        ({"features": "pre-relu"}, "saliency.features: resnet18 ends after its last ReLU"),
        (
            {"ensemble": [{"encoder": "resnet19"}]},
            "saliency.ensemble.classifier.encoder: 'resnet19'",
        ),
        (
            {"ensemble": [{"encoder": "densenet121", "output_stride": 8}]},
            "saliency.ensemble.classifier.encoder: densenet121 cannot keep",
        ),
        (
            {"refine": "irnet", "irnet": {"encoder": "resnet19", "weights": None}},
            "saliency.irnet.encoder: 'resnet19'",
        ),
        ({"refine": "irnet", "irnet": {"weights": "imagenet"}}, "saliency.irnet.weights: "),
        ({"features": "pre-relu", "method": "gradient"}, ""),
        ({"refine": "irnet"}, ""),
    ],
)
def test_what_explains_is_built_once(
    saliency: dict[str, object], said: str, phantom: Path, tmp_path: Path
) -> None:
    wish = experiment(tables(phantom)).model_copy(
        update={"saliency": Saliency.model_validate(saliency)}
    )
    text = fatal(wish, tmp_path)
    assert said in text
    assert bool(text) == bool(said)


def test_two_arms_of_the_same_settings_are_noted(phantom: Path, tmp_path: Path) -> None:
    wish = experiment(tables(phantom)).model_copy(update={"arms": {"a": {}, "b": {}}})
    found = check(wish, Workspace(tmp_path / "w"), tmp_path)
    assert "arms.b and arms.a are the same training" in [problem.what for problem in found]


def test_a_table_that_is_not_there_and_a_wrong_model_are_told_together(
    phantom: Path, tmp_path: Path
) -> None:
    _, *rest = tables(phantom)
    gone = Table(table=str(phantom / "CheXpert-v1.0" / "tain.csv"), split="train")
    text = fatal(experiment([gone, *rest], architecture="Unett"), tmp_path)
    assert "tain.csv; in that folder: " in text
    assert "train.csv" in text
    assert "segmenter.architecture: 'Unett' is no architecture" in text
    assert "did you mean Unet?" in text


def test_every_broken_or_missing_file_is_named(phantom: Path, tmp_path: Path) -> None:
    folder = copied(phantom, tmp_path / "p")
    train, valid, test = tables(folder)
    labels = tmp_path / "labels.csv"
    labels.write_text("Path\n")
    train = train.model_copy(update={"labels": str(labels)})
    cut = [train.table, valid.table, valid.truth, test.points]
    for name in cut:
        Path(str(name)).write_text("")
    gone = [test.truth, test.benchmark]
    for name in gone:
        Path(str(name)).unlink()
    text = fatal(experiment([train, valid, test]), tmp_path)
    for name in (*cut, *gone, labels):
        assert text.count(str(name)) == 1
    assert str(test.table) not in text


def test_broken_labels_of_a_plus_table_do_not_hide_the_table(tmp_path: Path) -> None:
    table = tmp_path / "df_chexpert_plus_240401.csv"
    table.write_text("")
    wish = Table(table=str(table), split="train", layout="chexpert-plus")
    text = fatal(experiment([wish]), tmp_path)
    assert str(table) in text
    assert "report_fixed.json" in text


def test_a_patient_in_two_splits_is_fatal(phantom: Path, tmp_path: Path) -> None:
    train, valid, test = tables(phantom)
    again = train.model_copy(update={"split": "valid"})
    assert "patient00001" in fatal(experiment([train, again, valid, test]), tmp_path)


def test_expert_arms_need_expert_masks(phantom: Path, tmp_path: Path) -> None:
    train, valid, test = tables(phantom)
    bare = valid.model_copy(update={"truth": None})
    text = fatal(experiment([train, bare, test]), tmp_path)
    assert "arms expert only, mix learn from expert masks" in text


def test_expert_masks_are_compared_with_what_is_left(phantom: Path, tmp_path: Path) -> None:
    read = [entry for entry in read_table(tables(phantom)[1]) if entry.masks]
    drawn = [entry for entry in read if entry.masks.encoded().counts]  # type: ignore[union-attr]
    patients = {entry.patient for entry in drawn}
    wish = experiment(tables(phantom), expert_validation=0.5)
    held, rest = split_patients(patients, 0.5, wish.seed)
    left = len([entry for entry in drawn if entry.patient in rest])
    assert 0 < left < len(drawn)
    arms = {
        "fits": {"expert_masks": left},
        "more": {"expert_masks": left + 1},
        "pseudo only": {"expert_masks": 1000, "expert_probability": 0.0},
    }
    text = fatal(wish.model_copy(update={"arms": arms}), tmp_path)
    assert text == (
        f"arms.more.expert_masks is {left + 1}, but experts drew on {len(drawn)} images, of which "
        f"{len(drawn) - left} (of {len(held)} patients) are held for validation: "
        f"ask for at most {left}, or hold fewer by segmenter.expert_validation"
    )
    model = wish.segmenter.model_copy(update={"expert_masks": left + 1})
    text = fatal(wish.model_copy(update={"segmenter": model}), tmp_path)
    assert text.startswith(f"segmenter.expert_masks is {left + 1}, but")
    assert len(text.splitlines()) == 1
    tune = Tune(space={"segmenter.expert_masks": [left, left + 1]})
    text = fatal(wish.model_copy(update={"tune": tune}), tmp_path)
    assert text.startswith(f"tune.space.segmenter.expert_masks is {left + 1}, but")
    assert len(text.splitlines()) == 1


def test_a_sweep_needs_held_patients(phantom: Path, tmp_path: Path) -> None:
    wish = experiment(tables(phantom), expert_validation=0.0, threshold=0.5)
    assert fatal(wish, tmp_path) == ""
    assert fatal(wish.model_copy(update={"tune": Tune()}), tmp_path) == (
        "a sweep is chosen on held expert masks, but segmenter.expert_validation is 0, so none "
        "are held: hold some (0.2 is the default)"
    )


@pytest.mark.parametrize(("valid", "said"), [(1, True), (9, True), (10, False)])
def test_few_phantoms_leave_few_expert_images(tmp_path: Path, valid: int, said: bool) -> None:
    wish = experiment(tables(tmp_path))
    data = Data(phantom=Phantom(train=9, valid=valid, test=9, size=64), size=64)
    found = check(wish.model_copy(update={"data": data}), Workspace(tmp_path / "w"), tmp_path)
    notes = [problem.what for problem in found if not problem.fatal]
    assert any("hardly any expert image" in note for note in notes) == said


def test_missing_weights_are_named_before_any_work(phantom: Path, tmp_path: Path) -> None:
    text = fatal(experiment(tables(phantom), init="imagenet"), tmp_path)
    assert "chexseg-platform fetch-weights resnet18" in text


def test_a_class_without_a_positive_is_a_note(phantom: Path, tmp_path: Path) -> None:
    found = check(experiment(tables(phantom)), Workspace(tmp_path / "w"), tmp_path)
    notes = [problem.what for problem in found if not problem.fatal]
    assert any("no image is positive for" in note for note in notes)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"init": "clasifier"}, "Did you mean classifier?"),
        ({"init": "segmenter:nowhere"}, "segmenter.init: nowhere is no folder of a model"),
        ({"expert_masks": 1000}, "segmenter.expert_masks is 1000, but experts drew on"),
    ],
)
def test_what_only_segmenters_would_trip_over_is_told_first(
    phantom: Path, tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    assert said in fatal(experiment(tables(phantom), **fields), tmp_path)


def test_more_workers_than_this_machine_has(phantom: Path, tmp_path: Path) -> None:
    wish = experiment(tables(phantom)).model_copy(update={"resources": Resources(workers=10_000)})
    assert "Lower resources.workers" in fatal(wish, tmp_path)


def test_errors_come_before_notes() -> None:
    text = render([Problem("a note", fatal=False), Problem("an error")])
    assert text == "error  an error\nnote   a note"


@pytest.fixture
def organs(tmp_path: Path) -> Path:
    folder = tmp_path / "organs"
    counts = {"train": 3, "valid": 2, "test": 2}
    write_phantom(folder, **counts, size=32, layout="covid-qu-ex", workers=1)  # type: ignore[arg-type]
    return folder


def collections(*roots: Path, **fields: object) -> Data:
    made = [Collection(layout="covid-qu-ex", root=str(root)) for root in roots]
    return Data(collections=made, **fields)  # type: ignore[arg-type]


def test_sound_collections_have_no_problem(organs: Path) -> None:
    assert list(inputs.check_collections(collections(organs))) == []


def test_every_collection_that_cannot_be_read_is_told(organs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    data = collections(tmp_path / "empty", organs, tmp_path / "gone")
    first, second = (problem.text for problem in inputs.check_collections(data))
    assert first.startswith("collections.0: ")
    assert second.startswith("collections.2: there is no folder")


def test_images_and_masks_without_each_other_are_listed(organs: Path) -> None:
    next(organs.rglob("images/covid_1.png")).unlink()
    next(organs.rglob("lung masks/non_COVID*.png")).unlink()
    (problem,) = inputs.check_collections(collections(organs))
    assert problem.what == ("2 of 7 lack their image or a mask (28.6%; max_rejected is 1.0%):")
    assert len(problem.items) == 2
    assert problem.fatal
    (problem,) = inputs.check_collections(collections(organs, max_rejected=0.5))
    assert not problem.fatal


def test_copies_are_a_note_and_other_pictures_of_one_name_an_error(
    organs: Path, tmp_path: Path
) -> None:
    shutil.copytree(organs, tmp_path / "again")
    data = collections(organs, tmp_path / "again")
    (problem,) = inputs.check_collections(data)
    assert problem.what.startswith("7 images are copies of others and are left out")
    assert not problem.fatal
    image = next((tmp_path / "again").rglob("images/covid_1.png"))
    shutil.copy(next(organs.rglob("lung masks/covid_1.png")), image)
    (problem,) = inputs.check_collections(data)
    assert problem.fatal
    assert problem.items == ("covid_1",)


def test_the_images_of_a_task_are_checked_before_it_is_learned(
    phantom: Path, organs: Path, tmp_path: Path
) -> None:
    next(organs.rglob("lung masks/covid_1.png")).unlink()
    task = Task(collections=collections(organs).collections)
    grid = Finetune(tasks={"lungs": task}, initialisations={"random": "random"})
    wish = experiment(tables(phantom)).model_copy(update={"finetune": grid})
    found = check(wish, Workspace(tmp_path / "w"), tmp_path / "weights", finetune=True)
    assert any(p.what.startswith("finetune.tasks.lungs: 1 of 7 lack their image") for p in found)


def grid(phantom: Path, **fields: object) -> Experiment:
    """Fine-tunings from a family, in which some fields of `finetune.segmenter` are set."""
    organs = Task(phantom=Phantom(layout="folder", train=4, valid=2, test=2, size=64))
    made = experiment(tables(phantom)).model_dump(exclude={"arms"})
    return Experiment.model_validate(
        {
            **made,
            "pretrain": {},
            "finetune": {"tasks": {"organs": organs.model_dump()}, "segmenter": fields},
        }
    )


def said_of_grid(wish: Experiment, tmp_path: Path) -> list[str]:
    found = check(wish, Workspace(tmp_path / "w"), tmp_path / "weights", arms=False, finetune=True)
    return [problem.text for problem in found if problem.fatal]


def test_starts_of_fine_tunings_are_built(phantom: Path, tmp_path: Path) -> None:
    assert said_of_grid(grid(phantom), tmp_path) == []
    said = said_of_grid(grid(phantom, architecture="FPN"), tmp_path)
    # The encoder fits; what else the family's segmenter holds does not.
    assert len(said) == 1
    assert said[0].startswith("finetune.initialisations.doll: The segmenter checkpoint does")
    assert said[0].endswith("It holds Unet on resnet18.")
    said = said_of_grid(grid(phantom, encoder="resnet34"), tmp_path)
    assert len(said) == 3  # of the classifier, the family's encoder, and all of the family
    assert sum(text.endswith("It holds Unet on resnet18.") for text in said) == 2
