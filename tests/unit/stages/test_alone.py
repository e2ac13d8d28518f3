"""A training in its own process: what it keeps, and that it goes on where it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from chexseg_platform.artifacts import Storage
from chexseg_platform.config import Fit
from chexseg_platform.models import checkpoints
from chexseg_platform.stages.alone import Checkpoints, fit_alone
from chexseg_platform.stages.training import Job, checkpoint_files, history_of
from chexseg_platform.training.fit import PLACE
from chexseg_platform.training.loop import one_group

SCORES = [0.2, 0.6, 0.4, 0.6, 0.1]


class Line:
    """A task whose score at each validation is given, and whose weight counts its steps."""

    steps_per_epoch, seed = 2, 0

    def __init__(self, stop_at: int = 99) -> None:
        self.model, self.stop_at = torch.nn.Linear(1, 1, bias=False), stop_at
        with torch.no_grad():
            self.model.weight.fill_(1.0)
        self.validations = 0

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        if step >= self.stop_at:
            raise KeyboardInterrupt
        return {"x": torch.ones(1, 1)}

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        return model(batch["x"]).mean()

    def groups(self) -> Any:
        return one_group(self.model)

    def validate(self) -> dict[str, float]:
        return {"score": SCORES[round((1 - self.model.weight.item()) / 0.2) - 1]}

    def dump(self) -> dict[str, bytes]:
        return checkpoints.dumps(self.model.state_dict(), {"kind": "line"})


def job(**task: Any) -> Job:
    # Adam moves by its rate at every step, so after two steps of 0.1 a validation is due.
    settings = Fit(optimizer="adam", lr=0.1, epochs=5.0, batch_size=1)
    return Job("line", "line", lambda wish, device: (Line(**task), settings), {}, keep=2)


@pytest.fixture
def runs(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "runs")


def test_the_best_and_the_latest_are_kept(runs: Storage) -> None:
    said: list[dict[str, float]] = []
    trained = fit_alone(job(), runs, 1, said.append)
    assert [row["score"] for row in said] == SCORES
    assert [(row["step"], row["share"]) for row in said] == [(2 * n, n / 5) for n in range(1, 6)]
    assert runs.folders("line") == [f"checkpoint_{n:09d}" for n in (4, 8, 10)]
    assert [metrics["step"] for _, metrics in trained.checkpoints] == [4, 8]
    assert [row["score"] for row in history_of(runs, trained)] == SCORES
    state, _ = checkpoints.loads(checkpoint_files(runs, trained.checkpoints[0][0]))
    assert float(state["weight"]) == pytest.approx(1 - 4 * 0.1, abs=1e-5)


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_a_training_that_was_cut_off_goes_on(runs: Storage, tmp_path: Path, stop_at: int) -> None:
    whole = fit_alone(job(), Storage(tmp_path / "whole"), 1, lambda row: None)
    with pytest.raises(KeyboardInterrupt):
        fit_alone(job(stop_at=stop_at), runs, 1, lambda row: None)
    said: list[dict[str, float]] = []
    trained = fit_alone(job(), runs, 1, said.append)
    assert len(said) < 5 or stop_at == 1
    for part in range(2):
        name = Path(whole.checkpoints[part][0]).name
        assert Path(trained.checkpoints[part][0]).name == name
        first, second = (
            Path(made.checkpoints[part][0]) / "weights.safetensors" for made in (whole, trained)
        )
        assert first.read_bytes() == second.read_bytes()


def test_a_folder_that_was_not_finished_is_none(runs: Storage, tmp_path: Path) -> None:
    kept, scratch = Checkpoints(runs, "line", 1), tmp_path / "scratch"
    scratch.mkdir()
    assert kept.latest(scratch) is None
    place = b'{"step": 2, "history": [{"step": 2, "score": 0.5}]}'
    kept.add(2, {"weights": b"w", PLACE: place})
    runs.write("line/checkpoint_000000004/weights", b"torn")
    found = kept.latest(scratch)
    assert found is not None
    assert {file.name for file in found.iterdir()} == {"weights", PLACE}
    assert (found / "weights").read_bytes() == b"w"
