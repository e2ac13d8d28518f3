"""Names of saliency methods, and what each changes in an experiment."""

import pytest
from chexseg_platform.config import Experiment
from chexseg_platform.stages.methods import UnknownMethod, parse, variant

EXPERIMENT = Experiment.model_validate(
    {"name": "e", "data": {"phantom": {"train": 4}, "size": 64}, "saliency": {"threshold": 0.4}}
)


def test_a_list_of_names() -> None:
    assert parse("grad-cam, occlusion,,grad-cam+irnet,grad-cam") == [
        "grad-cam", "occlusion", "grad-cam+irnet",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["grad-cam,lime", "", " , "])
def test_a_name_that_is_none(text: str) -> None:
    with pytest.raises(UnknownMethod, match="there are grad-cam, integrated-gradients, deeplift"):
        parse(text)


def test_a_method_explains_validation_images_alone() -> None:
    made = variant(EXPERIMENT, "integrated-gradients")
    assert made.saliency.method == "integrated-gradients"
    assert made.saliency.splits == ["valid"]
    assert made.saliency.threshold == 0.4
    assert variant(EXPERIMENT, "grad-cam+irnet").saliency.refine == "irnet"
