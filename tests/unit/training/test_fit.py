"""A whole training: bit for bit the same cut off or not, and the same draws on two workers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from chexseg_platform import config
from chexseg_platform.artifacts import Workspace
from chexseg_platform.config import Classifier, Fit, Segmenter
from chexseg_platform.data.mix import Batches, Mix
from chexseg_platform.data.store import MaskRows, expert_rows, open_store
from chexseg_platform.models import checkpoints
from chexseg_platform.models.checkpoints import CorruptCheckpoint, WrongArchitecture
from chexseg_platform.training.augment import Augment, vary_geometry
from chexseg_platform.training.batches import step_generator
from chexseg_platform.training.classification import Classification
from chexseg_platform.training.fit import PLACE, STATE, _report_every, fit, rank_and_world
from chexseg_platform.training.loop import one_group
from chexseg_platform.training.segmentation import Segmentation
from safetensors.torch import load as load_tensors
from torch import nn

CPU = torch.device("cpu")
IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Tiny:
    """A net with all that a resumption could forget: batch statistics, dropout, augmentation."""

    def __init__(self, seed=3, width=4, scores=(), batch_size=4):
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5),
            nn.Flatten(), nn.Linear(width * 36, 1),
        )  # fmt: skip
        self.seed, self.scores = seed, list(scores)
        self.batches = Batches(Mix(12, 0, 1.0, seed=seed), batch_size)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.drawn: list[list[int]] = []

    def batch(self, step):
        rows = self.batches.rows(step)
        self.drawn.append(rows.tolist())
        generator = step_generator(self.seed, step, 0)
        image, _, _ = vary_geometry(IMAGES[rows], None, Augment(rotate=20.0), generator)
        return {"image": image, "sign": (IMAGES[rows].mean((1, 2, 3)) > 0).float()}

    def loss(self, model, batch):
        logit = model(batch["image"])[:, 0].float()
        return nn.functional.binary_cross_entropy_with_logits(logit, batch["sign"])

    def groups(self):
        return one_group(self.model)

    def validate(self):
        assert not self.model.training
        torch.rand(7)  # whoever draws here must not change the training
        return {"score": self.scores.pop(0)} if self.scores else {}

    def dump(self):
        return checkpoints.dumps(self.model.state_dict(), {"kind": "tiny"})


SETTINGS = Fit(epochs=4.0, lr=0.01, schedule="cosine", validations_per_epoch=1.0)


def save(folder: Path, event):
    folder.mkdir()
    for name, content in event.files.items():
        (folder / name).write_bytes(content)
    return folder


def weights(event):
    """All tensors of a checkpoint, file by file."""
    return {
        name: load_tensors(content)
        for name, content in event.files.items()
        if name.endswith(".safetensors")
    }


def assert_same_end(resumed, rest):
    """The same steps, losses and tensors of every file, bit for bit."""
    assert [e.report.step for e in resumed] == [e.report.step for e in rest]
    assert [e.report.loss for e in resumed] == [e.report.loss for e in rest]
    assert set(weights(resumed[-1])) == set(weights(rest[-1]))
    for kind, tensors in weights(resumed[-1]).items():
        wanted = weights(rest[-1])[kind]
        assert set(tensors) == set(wanted)
        for name, value in tensors.items():
            assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_training_that_was_cut_off_is_bit_for_bit_the_same(tmp_path, cut):
    whole = list(fit(Tiny(), SETTINGS, CPU))
    checkpoint = save(tmp_path / "c", [e for e in whole if e.files][cut])
    torch.manual_seed(99)
    again = Tiny(seed=3)
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.zero_()
    torch.manual_seed(1234)
    resumed = list(fit(again, SETTINGS, CPU, resume=checkpoint))
    rest = whole[-len(resumed) :]
    assert_same_end(resumed, rest)
    losses = [
        [row["loss"] for row in json.loads(e.files[PLACE])["history"]]
        for e in (resumed[-1], rest[-1])
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_a_training_resumed_at_its_end_does_nothing(tmp_path):
    last = list(fit(Tiny(), SETTINGS, CPU))[-1]
    assert list(fit(Tiny(), SETTINGS, CPU, resume=save(tmp_path / "c", last))) == []


def test_events_carry_what_a_validation_found():
    events = list(fit(Tiny(scores=[0.5, 0.7, 0.6, 0.8]), SETTINGS, CPU))
    assert [e.report.step for e in events] == list(range(1, 13))
    judged = [e for e in events if e.metrics is not None]
    assert [e.epoch for e in judged] == [1.0, 2.0, 3.0, 4.0]
    assert [e.metrics["score"] for e in judged] == [0.5, 0.7, 0.6, 0.8]
    assert all(set(e.files) == {*judged[0].files} for e in judged)
    assert all(e.files is None for e in events if e.metrics is None)
    history = json.loads(judged[-1].files[PLACE])["history"]
    assert [row["score"] for row in history] == [0.5, 0.7, 0.6, 0.8]
    assert [row["step"] for row in history] == [3, 6, 9, 12]


def test_without_a_score_the_last_is_the_best_and_below_any_score():
    scores = [e.metrics["score"] for e in fit(Tiny(), SETTINGS, CPU) if e.metrics]
    assert scores == sorted(scores)
    assert 0 < scores[0] < scores[-1] < 1e-6


def test_epochs_see_every_row_once():
    task = Tiny()
    list(fit(task, SETTINGS, CPU))
    assert len(task.drawn) == 12
    for epoch in range(4):
        rows = np.concatenate(task.drawn[3 * epoch : 3 * epoch + 3])
        assert sorted(rows) == list(range(12))


@pytest.mark.parametrize(
    ("epochs", "validations", "last", "judged"),
    [
        (1.0, 1.0, 3, [3]),
        (0.5, 1.0, 2, [2]),
        (0.01, 1.0, 1, [1]),
        (2.0, 3.0, 6, [1, 2, 3, 4, 5, 6]),
        (3.0, 0.5, 9, [6, 9]),
        (1.0, 100.0, 3, [1, 2, 3]),
    ],
)
def test_lengths_and_validations(epochs, validations, last, judged):
    settings = Fit(epochs=epochs, validations_per_epoch=validations)
    events = list(fit(Tiny(), settings, CPU))
    assert events[-1].report.step == last
    assert [e.report.step for e in events if e.metrics is not None] == judged


@pytest.mark.parametrize("every", [1, 2, 7, 10, 24, 100, 997])
def test_reports_between_validations(every):
    step = _report_every(every)
    assert every % step == 0
    assert every // step >= min(10, every)


def test_bfloat16_trains_on_a_cpu():
    events = list(fit(Tiny(), Fit(epochs=2.0, lr=0.01, precision="bfloat16"), CPU))
    plain = list(fit(Tiny(), Fit(epochs=2.0, lr=0.01, precision="float32"), CPU))
    assert math.isfinite(events[-1].report.loss)
    assert events[-1].report.loss != plain[-1].report.loss
    assert events[-1].report.loss == pytest.approx(plain[-1].report.loss, abs=0.2)


def test_a_checkpoint_of_another_model_or_a_torn_one_is_refused(tmp_path):
    last = list(fit(Tiny(), SETTINGS, CPU))[-1]
    folder = save(tmp_path / "c", last)
    with pytest.raises(WrongArchitecture, match=r"0\.weight"):
        next(fit(Tiny(width=5), SETTINGS, CPU, resume=folder))
    (folder / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptCheckpoint, match=str(folder)):
        next(fit(Tiny(), SETTINGS, CPU, resume=folder))


def test_outside_a_group_there_is_one_worker():
    assert rank_and_world() == (0, 1)


ADAPTED = {
    "low-rank": {"adapt": "low-rank", "rank": 2, "layer_decay": 0.5},
    "frozen": {"adapt": "frozen-encoder", "layer_decay": 0.5},
}


def adapted(store, way, **fields):
    """A segmenter's training that does not train all of it."""
    drawn = expert_rows(store, store.rows("valid"))
    settings = Segmenter(
        encoder="tu-test_resnet", architecture="Unet", lr=1e-2, batch_size=4,
        expert_probability=1.0, options={"decoder_channels": [32, 32, 16, 16, 16]},
        **ADAPTED[way], **fields,
    )  # fmt: skip
    sets = {"expert": drawn, "pseudo": MaskRows.empty(), "valid": drawn}
    return Segmentation(settings, store, **sets, seed=5, device=CPU)


@pytest.mark.parametrize("way", ADAPTED)
def test_a_training_of_some_parameters_goes_on_bit_for_bit(tiny_store, tmp_path, way):
    fields = {"epochs": 3.0, "schedule": "cosine", "augment": config.Augment(rotate=10.0)}
    task = adapted(tiny_store, way, **fields)
    whole = list(fit(task, task.settings, CPU))
    checkpoint = save(tmp_path / "c", next(e for e in whole if e.files))
    assert (checkpoint / STATE).exists() == (way == "low-rank")
    again = adapted(tiny_store, way, **fields)
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.zero_()
    torch.manual_seed(1234)
    resumed = list(fit(again, again.settings, CPU, resume=checkpoint))
    assert len(resumed) == 4
    assert_same_end(resumed, whole[-4:])
    assert resumed[-1].metrics["score"] == whole[-1].metrics["score"]


def test_a_checkpoint_of_updates_fits_no_plain_training(tiny_store, tmp_path):
    task = adapted(tiny_store, "low-rank", epochs=0.5)
    checkpoint = save(tmp_path / "c", list(fit(task, task.settings, CPU))[-1])
    other = adapted(tiny_store, "frozen")
    with pytest.raises(WrongArchitecture, match="encoder"):
        next(fit(other, other.settings, CPU, resume=checkpoint))


def tasks(store):
    """A classifier's and segmenters' trainings; some segmenters leave layers unused."""
    kind = {"encoder": "tu-test_resnet", "lr": 1e-3, "epochs": 1.0}
    drawn = expert_rows(store, store.rows("valid"))
    segmenter = Segmenter(
        **kind, batch_size=4, architecture="PSPNet", expert_probability=1.0,
        options={"psp_out_channels": 16},
    )  # fmt: skip
    sets = {"expert": drawn, "pseudo": MaskRows.empty(), "valid": drawn}
    classify = Classification(Classifier(**kind, batch_size=8), store, seed=5, device=CPU)
    segment = Segmentation(segmenter, store, **sets, seed=5, device=CPU)
    segment.model.add_module("unused", nn.Linear(2, 2))
    some = {way: adapted(store, way, epochs=1.0) for way in ADAPTED}
    return {"classify": classify, "segment": segment, **some}


def trained(task):
    """What one worker of a training sees, draws and ends with."""
    task.model.eval()
    told = {"before": task.validate(), "drawn": []}
    draw = task.batches.rows

    def rows(step):
        told["drawn"].append(draw(step).tolist())
        return draw(step)

    task.batches.rows = rows
    last = list(fit(task, task.settings, CPU))[-1]
    checksum = sum(float(value.double().sum()) for value in task.model.state_dict().values())
    return {
        **told, "metrics": dict(last.metrics), "files": last.files is not None,
        "checked": task.validate(), "weights": checksum,
    }  # fmt: skip


def worker(rank, workspace, print_, folder):
    """One of two workers, in a process of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    store = open_store(Workspace(workspace).find("dataset", print_), Path(folder))
    print(json.dumps({name: trained(task) for name, task in tasks(store).items()}))
    dist.destroy_process_group()


WORKER = """
import runpy
ready()
runpy.run_path(sys.argv[2])["worker"](int(sys.argv[1]), *sys.argv[3:])
"""


@pytest.fixture(scope="module")
def one_and_two(tiny_dataset, tiny_store, together, tmp_path_factory):
    workspace = tiny_dataset.uri.partition("/dataset/")[0]
    folder = str(tmp_path_factory.mktemp("two"))
    outputs = together(WORKER, 2, __file__, workspace, tiny_dataset.fingerprint, folder)
    alone = {name: trained(task) for name, task in tasks(tiny_store).items()}
    return [alone, *(json.loads(output) for output in outputs)]


@pytest.mark.parametrize("task", ["classify", "segment", *ADAPTED])
def test_two_workers_see_the_draws_of_one(one_and_two, task):
    one, first, second = (told[task]["drawn"] for told in one_and_two)
    assert len(one) == len(first) == 2
    for whole, left, right in zip(one, first, second, strict=True):
        assert whole[0::2] == left
        assert whole[1::2] == right


@pytest.mark.parametrize("task", ["classify", "segment", *ADAPTED])
def test_two_workers_find_what_one_finds(one_and_two, task):
    one, first, second = (told[task] for told in one_and_two)
    assert first["before"] == second["before"]
    assert first["before"] == pytest.approx(one["before"], abs=1e-6)
    assert np.isfinite(list(one["metrics"].values())).all()


@pytest.mark.parametrize("task", ["classify", "segment", *ADAPTED])
def test_workers_end_with_the_same_model_and_judge_the_one_that_is_kept(one_and_two, task):
    _, first, second = (told[task] for told in one_and_two)
    assert first["weights"] == second["weights"]
    assert (first["files"], second["files"]) == (True, False)
    for worker in (first, second):
        assert {k: worker["metrics"][k] for k in worker["checked"]} == worker["checked"]
    judged = [{k: v for k, v in w["metrics"].items() if k != "loss"} for w in (first, second)]
    assert judged[0] == judged[1]
