"""Fine-tuning tasks by name, and the grid of trainings."""

from pathlib import Path

import pytest
from chexseg_platform import plan, tasks
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Experiment
from chexseg_platform.findings import CLAVICLES, INFECTION, LUNGS, ORGANS, PLACED
from chexseg_platform.plan import SEGMENTER, Plan, rounds_of

ORGAN_PHANTOM = {"phantom": {"layout": "jsrt"}}
COVID = {"phantom": {"layout": "covid-qu-ex"}}


def experiment(**fields):
    settings = {
        "name": "x",
        "data": {"phantom": {}},
        "saliency": {"classes": "observations"},
        "pretrain": {"families": {"doll": {"rounds": 1}, "plain": {}}},
        "finetune": {"tasks": {"organs": ORGAN_PHANTOM, "covid-infection": COVID}},
    }
    return Experiment.model_validate(settings | fields)


def names(made, **narrow):
    return list(tasks.narrowed(made, **narrow).finetune.tasks)


def test_tasks_by_name() -> None:
    made = experiment()
    assert tasks.narrowed(made, []) is made
    assert list(tasks.narrowed(made, ["organs"]).finetune.tasks) == ["organs"]
    narrow = tasks.narrowed(made, ["lungs", "clavicles"]).finetune.tasks
    assert {name: tasks.classes_of(name, task) for name, task in narrow.items()} == {
        "lungs": (LUNGS,),
        "clavicles": (CLAVICLES,),
    }
    assert narrow["lungs"].phantom == made.finetune.tasks["organs"].phantom
    both = {name: tasks.classes_of(name, task) for name, task in made.finetune.tasks.items()}
    assert both == {"organs": ORGANS, "covid-infection": (INFECTION,)}


def test_a_folder_is_a_task(tmp_path: Path) -> None:
    folder = tmp_path / "my-masks"
    folder.mkdir()
    ((name, task),) = tasks.narrowed(experiment(), [str(folder)]).finetune.tasks.items()
    assert name == "my-masks"
    assert (task.collections[0].layout, task.collections[0].root) == ("folder", str(folder))
    assert tasks.classes_of(name, task) is None


def test_a_folder_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("heart", "masks (v2) é", "x/mine", "y/mine"):
        (tmp_path / name).mkdir(parents=True)
    found = tasks.narrowed(experiment(), [str(tmp_path / "heart"), str(tmp_path / "masks (v2) é")])
    made = found.finetune.tasks
    assert list(made) == ["heart folder", "masks -v2"]
    assert [tasks.classes_of(name, task) for name, task in made.items()] == [None, None]
    Experiment.model_validate(found.model_dump())
    monkeypatch.chdir(tmp_path / "x/mine")
    assert list(tasks.narrowed(experiment(), ["."]).finetune.tasks) == ["mine"]
    with pytest.raises(tasks.UnknownTask, match="two tasks would be called 'mine'"):
        tasks.narrowed(experiment(), [".", str(tmp_path / "y/mine")])


def test_names_of_nothing_are_refused() -> None:
    with pytest.raises(tasks.UnknownTask, match=r"Its tasks are organs, .* mean organs\?"):
        tasks.narrowed(experiment(), ["organ"])
    only = experiment(finetune={"tasks": {"covid-infection": COVID}})
    with pytest.raises(tasks.UnknownTask, match="'heart' is no task of this experiment"):
        tasks.narrowed(only, ["heart"])
    with pytest.raises(tasks.UnknownTask, match="x has no section finetune"):
        tasks.settings_of(experiment(finetune=None))


def test_the_grid_is_every_task_fraction_start_and_seed(tmp_path: Path) -> None:
    made = experiment(
        finetune={
            "tasks": {"organs": ORGAN_PHANTOM, "covid-infection": COVID},
            "fractions": [0.1, 1.0],
            "seeds": [0, 1, 2],
            "segmenter": {"lr": 2e-3},
        }
    )
    cells = tasks.cells_of(made, Workspace(tmp_path))
    assert len(cells) == 2 * 2 * 4 * 3
    assert len({cell.print_ for cell in cells}) == len(cells)
    assert {cell.settings.lr for cell in cells} == {2e-3}
    assert {cell.settings.expert_probability for cell in cells} == {1.0}
    assert {cell.settings.init for cell in cells} == {
        "random", "classifier", "encoder:doll", "pretrained:doll"
    }  # fmt: skip
    assert cells[0].key == "organs 0.1, random, seed 0"


def prints(made, workspace):
    return {cell.key: cell.print_ for cell in tasks.cells_of(made, workspace)}


def test_what_a_start_is_made_of_decides_and_nothing_else(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    before = prints(experiment(), workspace)
    after = prints(experiment(saliency={"classes": "observations", "smallest": 0.01}), workspace)
    changed = {key.split(", ")[1] for key in before if before[key] != after[key]}
    assert changed == {"doll", "doll encoder"}
    assert prints(experiment(arms={"mix": {}}, tune={}), workspace) == before
    longer = prints(experiment(classifier={"epochs": 9}), workspace)
    changed = {key.split(", ")[1] for key in before if before[key] != longer[key]}
    assert changed == {"doll", "doll encoder", "classifier encoder"}


def test_rounds_follow_from_each_other() -> None:
    made = experiment()
    first, second = rounds_of(made, "doll", "d")
    assert len({*first, *second}) == 4
    # The same labels and settings: the same segmenter, whatever the family is called.
    assert rounds_of(made, "plain", "d") == (first,)
    assert made.family("doll").saliency.names == PLACED


def test_all_weights_are_pre_trained_unless_it_is_asked_otherwise() -> None:
    made = experiment(segmenter={"adapt": "frozen-encoder"})
    assert made.pretraining.adapt == "full"
    assert made.finetuning("random").adapt == "frozen-encoder"
    frozen = experiment(pretrain={"segmenter": {"adapt": "frozen-encoder"}})
    assert frozen.pretraining.adapt == "frozen-encoder"


def test_pre_training_says_what_is_done(tmp_path: Path) -> None:
    made, workspace = experiment(), Workspace(tmp_path)
    labels = rounds_of(made, "doll", plan.dataset_print(made.data))[0].labels
    workspace.draft(plan.PSEUDOLABELS, labels).finish([], config={}, inputs={})
    lines = plan.render_families(made, ["doll"], workspace).splitlines()
    assert [line.split()[0:2] for line in lines[1:]] == [
        ["to", "do"], ["to", "do"], ["finished", "pseudolabels"], ["to", "do"], ["to", "do"],
        ["to", "do"],
    ]  # fmt: skip
    assert lines[-2].endswith("doll, round 1")


def test_an_arm_may_start_from_a_family() -> None:
    arms = {"mix": {}, "mix from doll": {"init": "pretrained:doll"}}
    chain = Plan.of(experiment(arms=arms))
    other = Plan.of(experiment(arms=arms, pretrain={"segmenter": {"epochs": 3}}))
    pairs = zip(chain.segmenters, other.segmenters, strict=True)
    assert [training.arm for (training, a), (_, b) in pairs if a != b] == ["mix from doll"]


def test_points_of_a_sweep_share_what_is_pre_trained() -> None:
    made = experiment(segmenter={"lr": 1e-3, "augment": {"rotate": 5.0}})
    point = made.variant({"lr": 1e-2, "init": "pretrained:doll", "augment": {"scale": 0.1}})
    assert point.pretraining == made.pretraining
    assert rounds_of(point, "doll", "d") == rounds_of(made, "doll", "d")
    assert made.finetuning("random").lr == 1e-3


def test_tables_depend_on_which_start_is_held_to_the_others(tmp_path: Path) -> None:
    starts, prints = {"random": "random", "doll": "pretrained:doll"}, set()
    for order in (list(starts), list(starts)[::-1]):
        wish = {"tasks": {"organs": ORGAN_PHANTOM}}
        made = experiment(finetune=wish | {"initialisations": {n: starts[n] for n in order}})
        cells = tasks.cells_of(made, Workspace(tmp_path))
        prints.add(tasks.grid_print(made, cells))
        assert tasks.grid_print(made, cells[::-1]) in prints
    assert len(prints) == 2


def test_a_grid_says_what_is_done(tmp_path: Path) -> None:
    made, workspace = experiment(), Workspace(tmp_path)
    cells = tasks.cells_of(made, workspace)
    workspace.draft(SEGMENTER, cells[0].print_).finish([], config={}, inputs={})
    text = tasks.render(made, cells, workspace)
    assert "Heart, Right Clavicle, Left Clavicle; 4 trainings, 1 finished" in text
    assert "fractions 1; seeds [0]" in text


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"pretrain": None}, "starts from encoder:doll, which pretrain.families does not name"),
        ({"arms": {"a": {"init": "pretrained:dol"}}}, "arms.a starts from .* there is doll, plain"),
        ({"pretrain": {"segmenter": {"init": "encoder:doll"}}}, "cannot start from itself"),
        ({"pretrain": {"families": {"a/b": {}}}}, "will not do as a name"),
        ({"pretrain": {"families": {"doll": {"saliency": {"metod": 1}}}}}, "metod"),
        ({"finetune": {"tasks": {"organs": {}}}}, "give its phantom or its collections"),
        ({"finetune": {"tasks": {"organs": {"phantom": {}}}}}, "has organs: give its layout"),
        (
            {"finetune": {"tasks": {"organs": ORGAN_PHANTOM}, "segmenter": {"init": "random"}}},
            "init is what `initialisations` gives",
        ),
        (
            {"finetune": {"tasks": {"x": ORGAN_PHANTOM}, "segmenter": {"expert_masks": 5}}},
            "expert_masks has no part here: `fractions` says",
        ),
        (
            {"pretrain": {"segmenter": {"expert_probability": 0.5}}},
            "expert_probability has no part here: pseudo-labels alone",
        ),
        ({"finetune": {"tasks": {"organs": ORGAN_PHANTOM}, "fractions": [0.0]}}, "greater than 0"),
        (
            {"finetune": {"tasks": {"organs": ORGAN_PHANTOM}, "fractions": [0.5, 1.0, 0.5]}},
            "the same fraction twice",
        ),
        (
            {"finetune": {"tasks": {"x": ORGAN_PHANTOM | {"classes": ["heart", "lungs", "Lung"]}}}},
            "lungs and Lung are one class: name it once",
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_named(fields, match) -> None:
    with pytest.raises(ValueError, match=match):
        experiment(**fields)
