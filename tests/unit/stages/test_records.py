"""Names under which the tracking store shows what stages measured."""

from chexseg_platform.stages.records import chosen_metrics, curves, headline_metrics, run_name


def test_curves_of_a_finding_are_grouped_and_the_score_is_not_told_twice() -> None:
    validation = {"step": 8, "epoch": 0.5, "score": 0.3, "miou": 0.3, "loss": 1.0, "iou Edema": 0.2}
    assert curves(validation) == {
        "validation/mIoU": 0.3,
        "training/loss": 1.0,
        "validation IoU/Edema": 0.2,
    }
    validation = {"auroc competition": 0.8, "auroc mean": 0.7, "auroc Lung Opacity": 0.6}
    assert curves(validation) == {
        "validation/AUROC competition": 0.8,
        "validation/AUROC mean": 0.7,
        "validation AUROC/Lung Opacity": 0.6,
    }


def test_scores_are_grouped_by_metric_and_missing_ones_left_out() -> None:
    summary = {
        "images": 16,
        "iou_pooled pseudo-labels": 0.1,
        "iou_present expert only": None,
        "gap closed iou_union": 0.5,
        "dice_pooled mix": 0.2,
        "gap closed dice_pooled": 0.3,
    }
    assert headline_metrics(summary) == {
        "images": 16.0,
        "mIoU C/pseudo-labels": 0.1,
        "gap closed/mIoU B": 0.5,
    }


def test_a_sweep_tells_the_means_of_its_winner() -> None:
    def score(mean: float | None) -> dict[str, list[dict[str, float | None]]]:
        return {"findings": [{"value": 0.9}, {"value": mean}]}

    test = {
        "scores": {
            "iou_pooled": {"0.5": score(0.2), "pseudo-labels": score(0.1)},
            "iou_union": {"0.5": score(None)},
            "dice_pooled": {"0.5": score(0.3)},
        }
    }
    assert chosen_metrics(test, "0.5") == {"mIoU C/chosen": 0.2}


def test_run_names_have_no_other_characters() -> None:
    assert run_name("segment mix, seed 0") == "segment mix seed 0"
    assert run_name("ingest ") == "ingest"
    assert run_name("trial init segmenter:/a/b (x)") == "trial init segmenter a b x"
