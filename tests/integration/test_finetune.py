"""Pre-training with self-distillation, and a grid of fine-tunings from it, on phantoms."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform import tasks
from chexseg_platform.artifacts import Artifact
from chexseg_platform.config import Experiment
from chexseg_platform.findings import INFECTION, ORGANS, PLACED
from chexseg_platform.models.segmenter import load_segmenter
from chexseg_platform.plan import PRETRAINED, SEGMENTER, rounds_of
from chexseg_platform.stages import tune
from chexseg_platform.stages.finetune import NothingDrawn, finetune
from chexseg_platform.stages.models import files_of
from chexseg_platform.stages.pretrain import UnknownFamily, pretrain
from chexseg_platform.tracking import open_tracker

pytestmark = pytest.mark.ray

DOLL = (
    "{saliency: {classes: observations, method: integrated-gradients, "
    "integrated: {steps: 2, tolerance: null}, combine: auroc, scale: mass, box: 0.1, "
    "pool: superpixels, regions: 40, threshold: mass, smallest: 0.003, ignore: 0.04}, rounds: 1}"
)
FOLDER = "{phantom: {layout: folder, train: 8, valid: 3, test: 3, size: 64, seed: 3}}"
COVID = "{phantom: {layout: covid-qu-ex, train: 8, valid: 4, test: 4, size: 64, seed: 4}}"
SETTINGS = (
    f"pretrain={{families: {{doll: {DOLL}}}, segmenter: {{init: classifier, epochs: 1}}}}",
    f"finetune={{tasks: {{organs: {FOLDER}, covid-infection: {COVID}}}, fractions: [0.25, 1.0], "
    'initialisations: {random: random, doll: "pretrained:doll"}, '
    "segmenter: {epochs: 1, epoch_images: 8}}",
)


@pytest.fixture(scope="module")
def own(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The finished experiment in a workspace of these tests' own."""
    return finished.copy(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def experiment(settle: Any) -> Experiment:
    return settle(*SETTINGS)


def run(own: Any, experiment: Experiment, said: list[str]) -> Artifact:
    with open_tracker(own.folder, "finetune", enabled=False) as tracker:
        cells = tasks.cells_of(experiment, own.context.workspace)
        return finetune(own.context, experiment, cells, tracker, said.append)


def test_pre_training_makes_a_segmenter_of_all_observations(own: Any, experiment: Any) -> None:
    said: list[str] = []
    with open_tracker(own.folder, "pretrain", enabled=False) as tracker:
        made = pretrain(own.context, experiment, [], tracker, said.append)
        with pytest.raises(UnknownFamily, match="'dol' is no family of pretrain: there is doll"):
            pretrain(own.context, experiment, ["dol"], tracker, said.append)
    _, meta = load_segmenter(files_of(made["doll"], 0))
    assert tuple(meta["spec"]["classes"]) == PLACED
    assert any(line.startswith("self-distillation  ") for line in said)
    assert "Labels beside the experts' masks of the test images" in said[-1]
    rounds = rounds_of(experiment, "doll", own.dataset.fingerprint)
    first, second = (own.context.workspace.find("pseudolabels", each.labels) for each in rounds)
    names = ["finding", "allowed", "known", "counts", "ignored"]
    old, new = (labels.tables("masks/", names) for labels in (first, second))
    assert old["allowed"].equals(new["allowed"])
    kept = set(second.summary["kept"])
    pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
    assert {before["finding"] for before, after in pairs if before != after} <= kept
    held = {row["finding"] for row in second.summary["judged"]["before"]}
    assert kept <= held, "without experts nothing is kept"
    # A round that betters nothing is the last one: its labels are the ones there were.
    assert made["doll"].fingerprint == rounds[1 if kept else 0].segmenter


def test_the_grid_is_trained_once_counted_and_told(
    own: Any, experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    found = run(own, experiment, said)
    assert f"organs  {', '.join(ORGANS)}: 8 images to learn from, 3 for thresholds" in said[0]
    rows = list(csv.DictReader(io.StringIO(found.read("finetuning.csv").decode())))
    scores = [row for row in rows if row["kind"] == "score" and row["metric"] == "dice_union"]
    cells = {(r["task"], r["fraction"], r["images"], r["initialisation"]) for r in scores}
    assert cells == {
        (task, fraction, images, start)
        for task in ("organs", "covid-infection")
        for fraction, images in (("0.25", "2"), ("1.0", "8"))
        for start in ("random", "doll")
    }
    assert {row["class"] for row in scores} == {*ORGANS, INFECTION, "Mean"}
    names = {part.name for part in found.parts()}
    assert names >= {"label-efficiency.png", "learning-curves.png", "label-families.txt"}
    assert said[-1].startswith("report  ")
    assert Path(said[-1].removeprefix("report  ")).is_file()

    # Where the tables are lost nothing is trained again, and they say the same.
    Path(found.uri, "artifact.json").unlink()
    monkeypatch.setattr(tune, "_tune", refuse)
    again = run(own, experiment, [])
    assert again.read("finetuning.csv") == found.read("finetuning.csv")


def refuse(*_: object) -> Any:
    raise AssertionError("everything was trained")


def test_segmenters_say_what_they_were_made_of(own: Any, experiment: Any) -> None:
    cells = tasks.cells_of(experiment, own.context.workspace)
    for cell in cells:
        made = own.context.workspace.find(SEGMENTER, cell.print_)
        classes = ORGANS if cell.task == "organs" else (INFECTION,)
        _, meta = load_segmenter(files_of(made, 0))
        assert tuple(meta["spec"]["classes"]) == classes
        assert made.summary["images"] == max(1, round(8 * cell.fraction))
        assert (PRETRAINED in made.manifest["inputs"]) == (cell.initialisation == "doll")
    assert not list((own.folder / "runs").glob("segmenter-*")), "nothing is left behind"


def test_what_cannot_be_learned_is_said_before_anything_is_trained(own: Any, settle: Any) -> None:
    grid = SETTINGS[1]
    blank = settle(SETTINGS[0], grid.replace("layout: covid-qu-ex", "layout: montgomery"))
    with pytest.raises(NothingDrawn, match="no train image has a mask of COVID-19 Infection"):
        run(own, blank, [])
    other = grid.replace("epoch_images: 8", "epoch_images: 8, architecture: FPN")
    wrong = settle(SETTINGS[0], other.replace("random: random, ", ""))
    with pytest.raises(tune.SweepFailed, match=r"no 'decoder\.p5\.weight'.* It holds Unet"):
        run(own, wrong, [])
