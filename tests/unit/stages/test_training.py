"""What a progress line shows of trainings."""

from chexseg_platform.stages.training import Figures, Note


def note(key: str, score: float | None = None) -> Note:
    metrics = None if score is None else {"score": score}
    return Note(key, 1, 9, images_per_second=8.0, loss=0.5, epoch=0.1, metrics=metrics)


def test_the_best_score_of_each_training_stays_beside_the_latest() -> None:
    figures = Figures("mIoU")
    assert list(figures.of(note("mix"))) == ["best mIoU", "images/s", "loss", "latest mIoU"]
    found = [
        (shown["best mIoU"], shown["latest mIoU"])
        for shown in map(
            figures.of,
            [note("mix"), note("mix", 0.3), note("mix", 0.2), note("mix"), note("expert", 0.1),
             note("mix", 0.4)],
        )
    ]  # fmt: skip
    none = ("–", "–")
    assert found == [none, (0.3, 0.3), (0.3, 0.2), (0.3, 0.2), (0.1, 0.1), (0.4, 0.4)]


def test_a_validation_without_a_score_is_none() -> None:
    assert Figures("AUROC").of(note("x", 2e-9))["best AUROC"] == "–"
