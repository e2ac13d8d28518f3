"""The plan: what a change makes anew, and what it leaves."""

import json

import pyarrow as pa
import pytest
from chexseg_platform import plan
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Data, Experiment
from chexseg_platform.data import sources
from chexseg_platform.data.entries import file_state
from chexseg_platform.data.rows import REJECTED
from chexseg_platform.data.sources import NoImages
from chexseg_platform.findings import OBSERVATIONS
from chexseg_platform.models.first_weights import NoWeights
from chexseg_platform.plan import (
    READERS,
    Plan,
    boundary_print,
    dataset_print,
    evaluation_print,
    render,
    seeds_print,
    trainings,
)

HEADER = ",".join(["Path", "Age", *OBSERVATIONS])
IMAGE = "patient00002/study1/view1_frontal.png"

STAGES = ("dataset", "classifier", "pseudolabels", "segmenters", "comparison")


def experiment(**fields):
    return Experiment.model_validate({"name": "x", "data": {"phantom": {}}, **fields})


def changed(before, **fields):
    """The stages whose fingerprints the fields change."""
    after = Experiment.model_validate({**before.model_dump(), **fields})
    first, second = Plan.of(before), Plan.of(after)
    return {stage for stage in STAGES if getattr(first, stage) != getattr(second, stage)}


def prints(made):
    return {training.key: print_ for training, print_ in Plan.of(made).segmenters}


def test_a_plan_is_the_same_every_time():
    assert Plan.of(experiment()) == Plan.of(experiment())
    assert len({*prints(experiment()).values()}) == 3


@pytest.mark.parametrize(
    ("fields", "stages"),
    [
        ({"resources": {"workers": 4, "cache": "/x", "saliency_batch": 3}}, set()),
        ({"name": "y", "description": "z"}, set()),
        ({"tune": {"seeds": [5]}}, set()),
        ({"evaluation": {"resamples": 200}}, {"comparison"}),
        ({"segmenter": {"lr": 2e-4}}, {"segmenters", "comparison"}),
        ({"seeds": [1]}, {"segmenters", "comparison"}),
        ({"arms": {"mix": {"loss": "bce"}}}, {"segmenters", "comparison"}),
        ({"saliency": {"threshold": 0.5}}, {"pseudolabels", "segmenters", "comparison"}),
        ({"classifier": {"lr": 2e-4}}, {*STAGES} - {"dataset"}),
        ({"seed": 18}, {*STAGES} - {"dataset"}),
        ({"data": {"phantom": {}, "size": 64}}, {*STAGES}),
        ({"data": {"phantom": {"seed": 1}}}, {*STAGES}),
        ({"data": {"phantom": {}, "max_rejected": 0.5}}, set()),
    ],
)
def test_a_change_reaches_what_follows_from_it_and_nothing_else(fields, stages):
    assert changed(experiment(), **fields) == stages


ADAPTING = {
    "adapt": "full", "rank": 8, "layer_decay": 1.0, "class_weight": "none",
    "background_weight": 1.0,
}  # fmt: skip


def hashed(monkeypatch, **fields):
    """The segmenter's settings that enter its fingerprint."""
    seen = {}
    plain = plan.fingerprint

    def watched(kind, content):
        seen[kind] = content
        return plain(kind, content)

    monkeypatch.setattr(plan, "fingerprint", watched)
    Plan.of(experiment(segmenter=fields))
    return seen["segmenter"]["segmenter"]


def test_fields_that_change_nothing_are_no_part_of_a_segmenters_fingerprint(monkeypatch):
    made = experiment().segmenter.model_dump()
    assert {name: made[name] for name in ADAPTING} == ADAPTING
    assert set(hashed(monkeypatch)) == set(made) - set(ADAPTING)
    assert "rank" not in hashed(monkeypatch, adapt="frozen-encoder", rank=4)
    assert hashed(monkeypatch, adapt="low-rank")["rank"] == 8
    assert "background_weight" not in hashed(monkeypatch, background_weight=0.1)
    weighed = hashed(monkeypatch, background_weight=0.1, loss="dice+bce")
    assert weighed["background_weight"] == 0.1


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({**ADAPTING}, False),
        ({"rank": 4}, False),
        ({"adapt": "frozen-encoder"}, True),
        ({"adapt": "low-rank"}, True),
        ({"layer_decay": 0.8}, True),
        ({"class_weight": "balanced"}, True),
        ({"background_weight": 0.1}, False),
        ({"background_weight": 0.1, "loss": "bce"}, True),
    ],
)
def test_what_is_trained_and_weighed_is_part_of_a_fingerprint(fields, changes):
    loss = {"loss": fields["loss"]} if "loss" in fields else {}
    before, after = experiment(segmenter=loss), experiment(segmenter=fields)
    assert (prints(before) != prints(after)) == changes


def test_held_patients_count_where_thresholds_are_tuned_on_them():
    other = {"segmenter": {"expert_validation": 0.3}}
    assert changed(experiment(), **other) == {"segmenters", "comparison"}
    tuned = experiment(saliency={"threshold": "tuned"})
    assert changed(tuned, **other) == {"pseudolabels", "segmenters", "comparison"}


def test_an_arm_depends_on_what_it_learns_from():
    before, after = prints(experiment()), prints(experiment(saliency={"threshold": 0.5}))
    assert before["expert only, seed 0"] == after["expert only, seed 0"]
    assert before["pseudo only, seed 0"] != after["pseudo only, seed 0"]
    assert before["mix, seed 0"] != after["mix, seed 0"]
    arms = {"random": {}, "classifier": {"init": "classifier"}}
    only = {"arms": arms, "segmenter": {"expert_probability": 1.0}}
    before, after = prints(experiment(**only)), prints(experiment(**only, classifier={"lr": 0.01}))
    assert before["random, seed 0"] == after["random, seed 0"]
    assert before["classifier, seed 0"] != after["classifier, seed 0"]


def test_an_arm_is_what_it_does_and_not_what_it_is_called():
    one, two = experiment(arms={"a": {"lr": 1e-3}}), experiment(arms={"b": {"lr": 1e-3}})
    assert prints(one)["a, seed 0"] == prints(two)["b, seed 0"]


def test_every_arm_is_trained_with_every_seed():
    made = experiment(arms={"a": {}, "b": {"lr": 1e-3}}, seeds=[3, 4])
    keys = [training.key for training in trainings(made)]
    assert keys == ["a, seed 3", "b, seed 3", "a, seed 4", "b, seed 4"]
    assert trainings(made)[1].settings.lr == 1e-3
    assert len({*prints(made).values()}) == 4


def test_evaluations_tell_methods_splits_and_seeds_apart():
    base = {"name": "mix", "seed": 0, "source": "abc", "dataset": "d", "split": "test"}
    others = [{"name": "x"}, {"seed": 1}, {"source": READERS}, {"dataset": "e"}, {"split": "valid"}]
    found = {evaluation_print(**base), *(evaluation_print(**{**base, **other}) for other in others)}
    assert len(found) == 6


def test_tables_count_by_their_bytes_wherever_they_lie(tmp_path):
    def made(folder, age=60, **fields):
        path = tmp_path / folder / "train.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{HEADER}\npatient00001/study1/view1_frontal.jpg,{age}{',1.0' * 14}\n")
        return experiment(data={"tables": [{"table": str(path), "split": "train", **fields}]})

    first = Plan.of(made("here")).dataset
    assert Plan.of(made("there", root="/elsewhere")).dataset == first
    others = ({"age": 61}, {"limit": 5}, {"split": "test"})
    assert len({first, *(Plan.of(made("there", **other)).dataset for other in others)}) == 4


def refused(workspace, data, state):
    """A finished dataset that had to do without one image."""
    print_ = dataset_print(data, workspace)
    draft = workspace.draft("dataset", print_)
    row = {"image_id": "x", "source": IMAGE, "reason": "missing", "message": "", "state": state}
    part = draft.write("rejected.parquet", pa.Table.from_pylist([row], schema=REJECTED))
    draft.finish([part], config={}, inputs={}, summary={"rejected": {"missing": 1}})
    return print_


def test_inputs_that_were_mended_since_make_another_dataset(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text(
        f"{HEADER}\npatient00001/study1/view1_frontal.jpg,60{',1.0' * 14}\n"
    )
    table = {"table": str(tmp_path / "train.csv"), "split": "train"}
    data, workspace = Data.model_validate({"tables": [table]}), Workspace(tmp_path / "w")
    monkeypatch.setattr(sources, "_sample", lambda table: "the image is none of the sample")
    first = refused(workspace, data, "missing")
    assert dataset_print(data, workspace) == dataset_print(data) == first
    (tmp_path / IMAGE).parent.mkdir(parents=True)
    (tmp_path / IMAGE).write_bytes(b"still broken")
    second = refused(workspace, data, file_state(tmp_path / IMAGE))
    assert second != first
    assert dataset_print(data, workspace) == second
    (tmp_path / IMAGE).write_bytes(b"an image")
    assert dataset_print(data, workspace) not in (first, second)


def weights(folder, content):
    body = {"format": 1, "weights_sha256": content, "meta": {"kind": "segmenter"}}
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps(body))
    return str(folder)


def test_first_weights_count_by_their_content(tmp_path):
    def made(folder, content):
        place = weights(tmp_path / folder, content)
        arms = {"a": {"init": f"segmenter:{place}"}, "b": {}}
        return experiment(arms=arms, classifier={"weights": place})

    first = made("one", "abc")
    before, plan = prints(first), Plan.of(first)
    elsewhere = made("two", "abc")
    assert prints(elsewhere) == before
    assert Plan.of(elsewhere).comparison == plan.comparison
    other = made("one", "xyz")
    assert Plan.of(other).classifier != plan.classifier
    only = experiment(arms=other.arms)
    weights(tmp_path / "one", "abc")
    again = prints(only)
    weights(tmp_path / "one", "xyz")
    assert prints(only)["a, seed 0"] != again["a, seed 0"]
    assert prints(only)["b, seed 0"] == again["b, seed 0"]
    assert before["a, seed 0"] != again["a, seed 0"]
    with pytest.raises(NoWeights, match="nowhere is no folder of a model"):
        Plan.of(experiment(classifier={"weights": str(tmp_path / "nowhere")}))


def test_a_table_that_is_not_there_is_named(tmp_path):
    (tmp_path / "valid.csv").write_text("")
    data = {"tables": [{"table": str(tmp_path / "vaild.csv"), "split": "valid"}]}
    with pytest.raises(NoImages, match=r"no file .*vaild\.csv; in that folder: valid\.csv"):
        Plan.of(experiment(data=data))
    with pytest.raises(NoImages, match="cannot be read: Is a directory"):
        Plan.of(experiment(data={"tables": [{"table": str(tmp_path), "split": "valid"}]}))


def test_the_plan_as_a_person_reads_it(tmp_path):
    made = experiment(
        data={"phantom": {"train": 1000, "valid": 20, "test": 30}, "size": 96},
        arms={"mix": {"expert_masks": 12}},
    )
    plan, workspace = Plan.of(made), Workspace(tmp_path)
    workspace.draft("dataset", plan.dataset).finish([], config={}, inputs={})
    lines = render(made, plan, workspace).splitlines()
    assert lines[0] == f"x  in {tmp_path}"
    rows = [line.split() for line in lines[1:]]
    assert [row[:2] for row in rows][:2] == [["finished", "dataset"], ["to", "do"]]
    assert "1,050 phantom images at 96 px" in lines[1]
    assert "mix, seed 0: p = 0.9, 12 masks, 20 epochs" in lines[4]
    assert plan.comparison[:8] in lines[5]
    assert len(lines) == 6


def test_an_ensemble_and_refined_maps_are_other_pseudo_labels():
    plain = Plan.of(experiment())
    several = Plan.of(experiment(saliency={"ensemble": [{"seed": 3}]}))
    assert several.classifiers[0] == plain.classifier
    assert len(set(several.classifiers)) == 2
    refined = Plan.of(experiment(saliency={"refine": "irnet"}))
    walked = Plan.of(experiment(saliency={"refine": "irnet", "irnet": {"steps": 4}}))
    learned = Plan.of(experiment(saliency={"refine": "irnet", "irnet": {"lr": 0.1}}))
    others = [
        Plan.of(experiment(saliency=fields))
        for fields in (
            {"box": 0.1}, {"scale": "mass"}, {"combine": "median"}, {"smallest": 0.01},
            {"threshold": "mass"}, {"threshold": "mass", "mass": 0.3},
        )
    ]  # fmt: skip
    prints = {p.pseudolabels for p in (plain, several, refined, walked, learned, *others)}
    assert len(prints) == 5 + len(others)
    # Settings of what is not used change nothing.
    unused = Plan.of(
        experiment(saliency={"irnet": {"lr": 0.1}, "integrated": {"steps": 3}, "mass": 0.3})
    )
    assert unused == plain


def test_the_walk_is_no_part_of_what_it_walks_over():
    def prints(**irnet):
        made = experiment(saliency={"refine": "irnet", "threshold": 0.4, "irnet": irnet})
        args = (made, "d", ("c",))
        return seeds_print(*args), boundary_print(*args)

    before = prints()
    assert prints(steps=4, beta=2.0) == before
    assert prints(foreground=0.5)[0] != before[0]
    assert prints(lr=0.5)[0] == before[0]
    assert prints(lr=0.5)[1] != before[1]


def test_the_plan_names_what_refines(tmp_path):
    made = experiment(saliency={"refine": "irnet", "ensemble": [{"seed": 3}]})
    lines = render(made, Plan.of(made), Workspace(tmp_path)).splitlines()
    kinds = [line.split()[2] for line in lines[1:]]
    assert kinds[:6] == ["dataset", "classifier", "classifier", "seeds", "boundary", "pseudolabels"]
