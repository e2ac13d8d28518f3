"""Tracking against a real SQLite store: one run per key, each point once, nothing lost."""

import io
import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform import tracking
from chexseg_platform.artifacts import Workspace
from chexseg_platform.tracking import pages
from chexseg_platform.tracking.journal import Cursor, Journal, JournalInUse, waiting
from chexseg_platform.tracking.stores import default_uri, shown, store_uri, tracking_folder
from chexseg_platform.tracking.tracker import checked_name
from PIL import Image

DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for the module: making an SQLite store takes MLflow a second."""
    return tmp_path_factory.mktemp("workspace")


def client(workspace: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(workspace))


def runs_of(workspace: Path, experiment: str) -> list[Any]:
    """The runs by key, backwards: "whole" before "stage"."""
    mlflow = client(workspace)
    found = mlflow.get_experiment_by_name(experiment)
    runs = list(mlflow.search_runs([found.experiment_id]))
    return sorted(runs, key=lambda run: run.data.tags["chexseg.key"], reverse=True)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), 7).save(stream, "PNG")
    return stream.getvalue()


def log_stage(workspace: Path, experiment: str, epochs: range) -> None:
    with tracking.open_tracker(workspace, experiment) as tracker:
        parent = tracker.run("whole", experiment, tags={"revision": "abc"}, params={"seed": 3})
        stage = tracker.run("stage", "segment", parent=parent, params={"segmenter.lr": 1e-4})
        for epoch in epochs:
            stage.metrics(epoch, {"valid/mIoU": epoch / 10})
        stage.finish()
        parent.finish()


def test_everything_arrives(stores: Path) -> None:
    with tracking.open_tracker(stores, "all") as tracker:
        parent = tracker.run("whole", "all", tags={"revision": "abc"}, params={"seed": 3})
        stage = tracker.run("stage", "segment", parent=parent)
        stage.metrics(0, {"loss": 2.0, "IoU Lung Opacity": math.nan})
        stage.text("config.yaml", "a: 1\n")
        stage.json("counts", {"n": 2})
        stage.table("iou", [{"finding": "Edema", "iou": 0.5}])
        stage.image("overlays/first", png())
        stage.finish()
        parent.finish("FAILED")
    whole, segment = runs_of(stores, "all")
    assert whole.data.params == {"seed": "3"}
    assert whole.data.tags["revision"] == "abc"
    assert whole.info.status == "FAILED"
    assert segment.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert segment.data.metrics["loss"] == 2.0
    assert math.isnan(segment.data.metrics["IoU Lung Opacity"])
    mlflow = client(stores)
    names = {file.path for file in mlflow.list_artifacts(segment.info.run_id)}
    assert names == {"config.yaml", "counts.json", "iou.csv", "overlays"}
    table = mlflow.download_artifacts(segment.info.run_id, "iou.csv")
    assert Path(table).read_text().split() == ["finding,iou", "Edema,0.5"]
    image = mlflow.download_artifacts(segment.info.run_id, "overlays/first.png")
    assert Path(image).read_bytes() == png()
    assert segment.info.artifact_uri.startswith((stores / "mlflow" / "artifacts").as_uri())


def test_the_same_command_continues_the_same_run(stores: Path) -> None:
    log_stage(stores, "resume", range(3))
    log_stage(stores, "resume", range(2, 5))  # epoch 2 again, as after a crash
    whole, segment = runs_of(stores, "resume")
    history = client(stores).get_metric_history(segment.info.run_id, "valid/mIoU")
    assert [(point.step, point.value) for point in history] == [(i, i / 10) for i in range(5)]
    assert (whole.info.status, segment.info.status) == ("FINISHED", "FINISHED")


def test_a_finished_run_stays_closed_until_something_new_is_logged(stores: Path) -> None:
    log_stage(stores, "closed", range(2))
    before = [run.to_dictionary() for run in runs_of(stores, "closed")]
    log_stage(stores, "closed", range(2))
    assert [run.to_dictionary() for run in runs_of(stores, "closed")] == before
    with tracking.open_tracker(stores, "closed") as tracker:
        parent = tracker.run("whole", "closed")
        tracker.run("stage", "segment", parent=parent).metrics(2, {"valid/mIoU": 0.2})
        tracker.flush()
        assert [run.info.status for run in runs_of(stores, "closed")] == ["RUNNING"] * 2
        parent.finish()
    whole, segment = runs_of(stores, "closed")
    assert (whole.info.status, segment.info.status) == ("FINISHED", "RUNNING")
    assert whole.info.end_time > before[0]["info"]["end_time"]


def test_two_parents_of_one_stage_have_a_child_each(stores: Path) -> None:
    for _ in range(2):
        with tracking.open_tracker(stores, "parents") as tracker:
            for key in ("a", "b"):
                parent = tracker.run(key, key)
                parent.child("stage", "ingest").finish()
                parent.finish()
    whose = {
        run.data.tags["chexseg.key"]: run.data.tags.get("mlflow.parentRunId")
        for run in runs_of(stores, "parents")
    }
    ids = {run.data.tags["chexseg.key"]: run.info.run_id for run in runs_of(stores, "parents")}
    assert whose == {"a": None, "b": None, "a/stage": ids["a"], "b/stage": ids["b"]}


def test_a_later_tag_wins(stores: Path) -> None:
    for text in ("first", "second", "second"):
        with tracking.open_tracker(stores, "tags") as tracker:
            run = tracker.run("whole", "tags", tags={"code": "1"})
            run.tags({"mlflow.note.content": text})
            run.finish()
    (there,) = runs_of(stores, "tags")
    assert there.data.tags["mlflow.note.content"] == "second"
    assert there.data.tags["code"] == "1"
    assert there.info.status == "FINISHED"
    kinds = [
        json.loads(line)["kind"]
        for line in (stores / "tracking" / "tags" / "journal.jsonl").read_text().splitlines()
    ]
    assert kinds == ["experiment", "run", "tags", "finish", "run", "tags", "finish"]


def test_replay_changes_nothing_and_fills_another_store(stores: Path, tmp_path: Path) -> None:
    log_stage(stores, "again", range(2))
    folder = stores / "tracking" / "again"
    before = [run.to_dictionary() for run in runs_of(stores, "again")]
    for cursor in folder.glob("sent-*.json"):
        cursor.unlink()  # as if a kill had come before the cursor was written
    assert tracking.replay(folder) == 0
    assert [run.to_dictionary() for run in runs_of(stores, "again")] == before
    assert tracking.replay(folder, default_uri(tmp_path)) == 0
    names = [run.info.run_name for run in runs_of(tmp_path, "again")]
    assert names == ["again", "segment"]


def test_a_lost_store_is_filled_again(stores: Path, tmp_path: Path) -> None:
    log_stage(stores, "lost", range(2))
    empty = default_uri(tmp_path)
    journal = Journal(stores / "tracking" / "lost")
    Cursor(journal, empty).move(len(journal.records))  # all was sent there, and it is gone
    journal.close()
    with tracking.open_tracker(stores, "lost", uri=empty) as tracker:
        tracker.run("stage", "segment").metrics(2, {"valid/mIoU": 0.2})
    whole, segment = runs_of(tmp_path, "lost")
    history = client(tmp_path).get_metric_history(segment.info.run_id, "valid/mIoU")
    assert [point.step for point in history] == [0, 1, 2]
    assert whole.data.params == {"seed": "3"}


def test_two_workspaces_do_not_share_a_run(stores: Path, tmp_path: Path) -> None:
    for workspace in (tmp_path / "a", tmp_path / "b"):
        with tracking.open_tracker(workspace, "both", uri=default_uri(stores)) as tracker:
            tracker.run("whole", "both").finish()
    assert len(runs_of(stores, "both")) == 2


def test_a_server_that_is_away_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking.open_tracker(tmp_path, "away", uri=DEAD) as tracker:
        run = tracker.run("whole", "away")
        for epoch in range(3):
            run.metrics(epoch, {"loss": 1.0})
            assert not tracker.flush()
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "does not take records" in line]) == 1
    assert waiting(tmp_path / "tracking" / "away", DEAD) == 5
    assert tracking.replay(tmp_path / "tracking" / "away") == 0
    (run_there,) = runs_of(tmp_path, "away")
    assert run_there.data.metrics == {"loss": 1.0}


def test_a_refused_record_does_not_block_the_rest(stores: Path) -> None:
    with tracking.open_tracker(stores, "refused") as tracker:
        run = tracker.run("whole", "refused")
        tracker.note("artifact", run="whole", name="gone.txt", file="files/0/gone.txt")
        run.metrics(0, {"loss": 1.0})
        assert tracker.flush()
    (run_there,) = runs_of(stores, "refused")
    assert run_there.data.metrics == {"loss": 1.0}


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_ends_as_the_program_ends(
    stores: Path, error: type[BaseException], status: str
) -> None:
    def program() -> None:
        with tracking.open_tracker(stores, status) as tracker:
            tracker.run("whole", "ends")
            raise error

    with pytest.raises(error):
        program()
    assert runs_of(stores, status)[0].info.status == status


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "torn")
    journal.append("metrics", run="x", step=0, values={"a": 1.0})
    journal.close()
    with (tmp_path / "journal.jsonl").open("a") as stream:
        stream.write('{"id": 2, "kind": "met')
    again = Journal(tmp_path, "torn")
    assert [record["id"] for record in again.records] == [0, 1]
    assert again.append("finish", run="x", status="FINISHED")["id"] == 2
    again.close()
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, 1, 2]
    assert again.identity == journal.identity


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = Journal(tmp_path, "one")
    with pytest.raises(JournalInUse, match="Another process"):
        Journal(tmp_path, "one")
    first.close()
    Journal(tmp_path, "one").close()


def test_tracking_off_writes_nothing(tmp_path: Path) -> None:
    with tracking.open_tracker(tmp_path, "off", enabled=False) as tracker:
        run = tracker.run("whole", "off", params={"a": 1})
        run.metrics(0, {"loss": 1.0})
        run.image("x", png())
        run.finish()
        assert tracker.flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "a/../b", "/a", "a//b", "a\nb", "a;b", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        checked_name(name)


def test_bad_input(tmp_path: Path) -> None:
    with tracking.open_tracker(tmp_path, "bad", uri=DEAD) as tracker:
        with pytest.raises(ValueError, match="at most 99"):
            tracker.run("x", "x", params={f"p{i}": i for i in range(100)})
        run = tracker.run("x", "x")
        with pytest.raises(ValueError, match="not a PNG"):
            run.image("x", b"GIF89a")
        empty = Workspace(tmp_path).draft("segmenter", "f00").finish([], config={}, inputs={})
        with pytest.raises(ValueError, match="holds no checkpoints"):
            run.model("segmenter", empty)
    with pytest.raises(ValueError, match=r"no journal\.jsonl"):
        tracking.replay(tmp_path / "tracking" / "nothing")
    with pytest.raises(ValueError, match="no longer writes to folders"):
        tracking.open_tracker(tmp_path, "bad", uri=str(tmp_path / "mlruns"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="choose a workspace"):
        tracking.open_tracker(tmp_path / "file", "bad")
    with pytest.raises(ValueError, match="Nothing was tracked"):
        tracking.ui(tmp_path / "empty")


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert store_uri(tmp_path) == "https://mlflow.example.org"
    assert store_uri(tmp_path, "http://other") == "http://other"
    assert shown("postgresql://me:secret@host:5/db?x=1") == "postgresql://host:5/db"
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_a_workspace_elsewhere_is_tracked_under_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tracking_folder("s3://me:secret@bucket/a/workspace?region=eu-west-1")
    assert place.parent == tmp_path / "chexseg-platform" / "tracking"
    assert place == tracking_folder("s3://bucket/a/workspace/")
    assert place.name.startswith("s3-bucket-a-workspace-")
    others = {tracking_folder(f"{name}/workspace") for name in ("s3://b", "gs://b", "s3://b/c")}
    assert len({*others, place}) == 4
    assert tracking_folder(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert tracking_folder("w") == Path.cwd() / "w"


def test_what_is_tracked_of_a_workspace_elsewhere_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bucket = "s3://bucket/workspace"
    with pytest.raises(ValueError, match="of the machine that ran the experiment"):
        tracking.journals(bucket)
    with pytest.raises(ValueError, match="of the machine that ran the experiment"):
        tracking.ui(bucket)
    with tracking.open_tracker(bucket, "far", uri=DEAD) as tracker:
        tracker.run("whole", "far").finish()
    (journal,) = tracking.journals(bucket)
    assert tracking.replay(journal) == 0
    (run,) = runs_of(tracking_folder(bucket), "far")
    assert run.info.status == "FINISHED"


def test_the_pages_open_on_the_experiment_that_ran_last(stores: Path, tmp_path: Path) -> None:
    log_stage(stores, "newest", range(1))
    (run, _) = runs_of(stores, "newest")
    page = pages.first_page(default_uri(stores))
    assert page.startswith(f"/#/experiments/{run.info.experiment_id}/runs?")
    assert pages.first_page(default_uri(tmp_path)).startswith("/#/experiments?")


def test_runs_are_told_from_journals_and_their_pages_from_the_store(stores: Path) -> None:
    log_stage(stores, "linked", range(1))
    told = [run for run in tracking.tracked(stores) if run.experiment == "linked"]
    assert [(run.key, run.name, run.stage) for run in told] == [
        ("whole", "linked", ""), ("stage", "segment", ""),
    ]  # fmt: skip
    assert told[0].time >= told[1].time
    found = {p.key: p for p in tracking.run_pages(stores) if p.experiment == "linked"}
    for run in runs_of(stores, "linked"):
        page, number = found[run.data.tags["chexseg.key"]], run.info.experiment_id
        assert page.run_id == run.info.run_id
        here = f"http://127.0.0.1:5000/#/experiments/{number}/runs/{run.info.run_id}"
        assert page.url == here


def test_looking_for_pages_makes_no_store_and_waits_for_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.run_pages(tmp_path) == []
    assert tracking.tracked(tmp_path) == []
    Journal(tmp_path / "tracking" / "one", "one").close()
    assert tracking.run_pages(tmp_path) == []
    assert not (tmp_path / "mlflow").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(tracking.StoreAway, match=r"^http://127\.0\.0\.1:9 does not answer"):
        tracking.run_pages(tmp_path)


def test_a_journal_is_read_while_another_process_writes_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "tracking" / "one", "one")
    journal.append("run", run="k", name="n", parent=None, tags={"stage": "trial"}, params={})
    path = tmp_path / "tracking" / "one" / "journal.jsonl"
    with path.open("a") as stream:
        stream.write('{"id": 2, "cut')
    before = path.read_bytes()
    assert [(run.key, run.stage) for run in tracking.tracked(tmp_path)] == [("k", "trial")]
    assert path.read_bytes() == before
    journal.close()


def test_a_taken_port_is_told(stores: Path) -> None:
    log_stage(stores, "newest", range(1))
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ValueError, match="another --port"):
        tracking.ui(stores, port=taken.getsockname()[1])


def test_a_server_elsewhere_is_only_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    assert tracking.ui(tmp_path) == 0
    assert capsys.readouterr().out == "The runs are at https://mlflow.example.org\n"
