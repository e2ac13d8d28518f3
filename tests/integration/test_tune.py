"""A sweep on Ray Tune: goes on where it was, and outlives trials that fail."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform.plan import CLASSIFIER, PSEUDOLABELS, SEGMENTER, SWEEP, Plan
from chexseg_platform.points import trials_of
from chexseg_platform.stages import tune
from chexseg_platform.stages.sweep import sweep
from chexseg_platform.tracking import open_tracker

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def own(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The finished experiment in a workspace of these tests' own."""
    return finished.copy(tmp_path_factory.mktemp("tune"))


def run(own: Any, experiment: Any) -> Any:
    with open_tracker(own.folder, "sweep", enabled=False) as tracker:
        return sweep(own.context, experiment, tracker, lambda line: None)


def space(seeds: str = "[0]", **values: list[Any]) -> str:
    return f"tune={{space: {values}, seeds: {seeds}}}".replace("'", '"').replace("__", ".")


def count(own: Any, kind: str) -> int:
    return len(own.context.workspace.artifacts(kind))


def refuse(*_: object) -> Any:
    raise AssertionError("everything was trained")


def unfinished(own: Any) -> set[str]:
    """Folders of trainings that are not done; those of trials that failed stay."""
    return {path.name for path in (own.folder / "runs").glob("*")}


def written(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_failing_trial_ends_no_other_and_the_sweep_goes_on(
    own: Any, settle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One trial was trained as an arm of the experiment, one cannot start, one is new.
    wrong = f"segmenter:{own.classifier.uri}"
    before = written(own.folder / "segmenter")
    spoiled = settle(space(init=["classifier", wrong, "random"]))
    with pytest.raises(tune.SweepFailed, match="1 of 3 trials failed") as failed:
        run(own, spoiled)
    assert wrong in str(failed.value)
    after = written(own.folder / "segmenter")
    assert {path: after[path] for path in before} == before, "what was there is not trained again"
    new = {Path(path).relative_to(own.folder).parts[1] for path in set(after) - set(before)}
    assert len(new) == 1
    assert own.context.workspace.artifacts(SWEEP) == []

    monkeypatch.setattr(tune, "_tune", refuse)
    whole = run(own, settle(space(init=["classifier", "random"])))
    assert whole.summary["finished"] == whole.summary["trials"] == 2
    assert whole.summary["winner"] in {"init classifier", "init random"}
    assert "On the test images, once" in whole.read("sweep.txt").decode()
    assert written(own.folder / "segmenter") == after


def test_a_sweep_of_the_mix_has_a_plot_and_a_row_a_point(
    own: Any, settle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both points were trained as arms, so nothing is left to train.
    experiment = settle(space(expert_probability=[0.5, 1.0]))
    found = run(own, experiment)
    assert {part.name for part in found.parts()} >= {"sweep.png", "sweep.csv", "sweep.txt"}
    rows = found.read("sweep.csv").decode().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["expert_probability", "0.5", "1.0"]
    assert run(own, experiment).manifest == found.manifest


def test_a_failed_sweep_is_run_again_with_seeds_of_its_own(own: Any, settle: Any) -> None:
    experiment = settle(space("[4]", lr=[1e-3, 1e-4]))
    _, second = trials_of(experiment, Plan.of(experiment))
    left = unfinished(own)
    obstacle = own.folder / "runs" / f"segmenter-{second.print_}"
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("a file where the folder of its checkpoints should be")
    before = count(own, SEGMENTER)
    with pytest.raises(tune.SweepFailed, match=r"1 of 2 trials failed \(lr 0\.0001, seed 4"):
        run(own, experiment)
    assert count(own, SEGMENTER) == before + 1
    kept = written(own.folder / "segmenter")

    obstacle.unlink()
    found = run(own, experiment)
    assert found.summary["finished"] == found.summary["trials"] == 2
    after = written(own.folder / "segmenter")
    assert {path: after[path] for path in kept} == kept, "what was finished is not trained again"
    made = [a for a in own.context.workspace.artifacts(SEGMENTER) if a.seed == 4]
    assert len(made) == 2
    assert unfinished(own) == left


def test_points_may_differ_in_what_segmenters_learn_from(own: Any, settle: Any) -> None:
    # One classifier for all; a second set of pseudo-labels; and without pseudo-masks the two
    # thresholds are one training, which the experiment did already.
    wish = {"saliency__threshold": ["otsu", 0.4], "expert_probability": [0.5, 1.0]}
    kinds = (CLASSIFIER, PSEUDOLABELS, SEGMENTER)
    before = {kind: count(own, kind) for kind in kinds}
    found = run(own, settle(space(**wish)))
    assert {kind: count(own, kind) - before[kind] for kind in kinds} == {
        CLASSIFIER: 0, PSEUDOLABELS: 1, SEGMENTER: 1,
    }  # fmt: skip
    rows = [row.split(",")[:3] for row in found.read("sweep.csv").decode().splitlines()]
    assert [row[:2] for row in rows] == [
        ["saliency.threshold", "expert_probability"],
        ["otsu", "0.5"], ["otsu", "1.0"], ["0.4", "0.5"], ["0.4", "1.0"],
    ]  # fmt: skip
    assert rows[2][2] == rows[4][2], "one training has one score"
    assert found.summary["finished"] == 4


def test_asha_stops_the_worse_and_counts_it_as_stopped(
    own: Any, settle: Any, idle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a threshold of one nothing is ever found, so the second trial's score is 0.
    experiment = settle(
        "tune={space: {segmenter.threshold: [tuned, 1.0]}, seeds: [2], scheduler: asha, "
        "grace: 0.5, reduction: 2}",
        "segmenter.validations_per_epoch=2",
        "segmenter.epochs=4",
    )
    before = count(own, SEGMENTER)
    alone = own.context.resources.model_copy(update={"parallel_trainings": 1})
    first = run(own.with_resources(alone), experiment)
    won = {"winner": "segmenter.threshold tuned", "trials": 2, "finished": 1}
    assert first.summary == {"experiment": experiment.name, **won}
    made = own.context.workspace.artifacts(SEGMENTER)
    assert len(made) == before + 1, "who was stopped leaves no segmenter"
    (winner,) = [a for a in made if a.seed == 2]
    assert [row["epoch"] for row in winner.json("history.json")] == [n / 2 for n in range(1, 9)]
    (stopped,) = Path(first.uri, "stopped").iterdir()
    assert json.loads(stopped.read_text())["epoch"] == 2.0
    assert idle(), "who was stopped keeps no CPU"

    # The sweep is put together anew: what ended stays as it ended.
    Path(first.uri, "artifact.json").unlink()
    monkeypatch.setattr(tune, "_tune", refuse)
    again = run(own, experiment)
    assert again.summary == first.summary
    assert ",0,1,0" in again.read("sweep.csv").decode().splitlines()[2]


def test_an_interrupted_sweep_goes_on_and_takes_nothing_for_stopped(
    own: Any, settle: Any, experiment_file: Path
) -> None:
    overrides = [space("[6, 7]", lr=[3e-4]), "segmenter.epochs=6", "resources.workers=1"]
    options = [option for override in overrides for option in ("--set", override)]
    command = ["tune", str(experiment_file), *options, "-w", str(own.folder), "--no-tracking"]
    stopped, left = set((own.folder / "sweep").glob("*/stopped")), unfinished(own)
    process = subprocess.Popen(
        [sys.executable, "-m", "chexseg_platform.cli", *command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A shell that runs this in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        while not any(
            path.parent.name not in left
            for path in (own.folder / "runs").glob("segmenter-*/checkpoint_*")
        ):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, said
    assert "the same command continues" in said
    assert set((own.folder / "sweep").glob("*/stopped")) == stopped

    found = run(own, settle(*overrides))
    assert found.summary["finished"] == found.summary["trials"] == 2
    for artifact in own.context.workspace.artifacts(SEGMENTER):
        if artifact.seed in (6, 7):
            assert [row["epoch"] for row in artifact.json("history.json")] == [1, 2, 3, 4, 5, 6]
    assert unfinished(own) == left
