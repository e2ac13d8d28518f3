"""Kills at random moments: every run must complete when run again, with nothing lost or doubled.

    python -m tests.benchmarks.kills FOLDER --kills 50 --seed 0

A cluster of two nodes on loopback runs the stages of a tiny phantom's experiment once undisturbed;
then each kill takes a stage, a victim (the driver, a worker at work, or the second node's raylet)
and a moment between a tenth and nine tenths of the undisturbed run, all from its seed. A kill that
found nothing to kill is told as missed and proves nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from chexseg_platform.artifacts import Workspace

STAGES = {
    "ingest": ("dataset",),
    "classify": ("classifier",),
    "explain": ("pseudolabels",),
    "segment": ("segmenter",),
    "tune": ("segmenter", "sweep"),
}
VICTIMS = ("driver", "worker", "raylet")
SAME = ("dataset", "pseudolabels")
"""Kinds whose bytes are those of the undisturbed run, whatever was killed."""
PATIENCE = 240
SETTINGS = {
    "name": "kills",
    "seed": 3,
    "data": {"phantom": {"train": 60, "valid": 24, "test": 16, "size": 64, "seed": 1}, "size": 64},
    "classifier": {"encoder": "resnet18", "batch_size": 16, "epochs": 4, "keep": 1},
    "segmenter": {"architecture": "Unet", "encoder": "resnet18", "batch_size": 8, "epochs": 4,
                  "epoch_images": 32, "expert_probability": 0.5},
    "evaluation": {"resamples": 100, "overlays": 2},
    "tune": {"space": {"expert_probability": [0.0, 1.0]}, "seeds": [0]},
}  # fmt: skip
NODES = """
import sys
from ray.cluster_utils import Cluster
args = {"num_cpus": 1, "object_store_memory": 100 << 20}
nodes = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **args})
other = nodes.add_node(**args)
print(nodes.address, flush=True)
for line in sys.stdin:
    if line.strip() == "lose":
        nodes.remove_node(other, allow_graceful=False)
    else:
        other = nodes.add_node(**args)
    print("done", flush=True)
nodes.shutdown()
"""
Digests = dict[str, dict[str, str]]


class Nodes:
    """Two nodes of one core each; the second can be lost and started again."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", NODES], stdin=pipe, stdout=pipe, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def workers(self) -> list[psutil.Process]:
        """Return the workers that are at work, by their process ids."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                name = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if name.startswith("ray::") and not name.startswith("ray::IDLE"):
                found.append(child)
        return sorted(found, key=lambda child: child.pid)


@contextmanager
def nodes() -> Iterator[Nodes]:
    """Start the cluster, and end it."""
    made = Nodes()
    try:
        yield made
    finally:
        try:
            made.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            made.process.kill()
            made.process.communicate()


@dataclass(frozen=True)
class Undisturbed:
    """A stage run in peace: its seconds, the workspace before it, what it made, files by folder."""

    seconds: float
    before: Path
    made: Digests
    files: dict[str, int]


def start(stage: str, folder: Path, workspace: Path, address: str) -> subprocess.Popen[bytes]:
    """Start a stage as a user does; what it says goes to a file beside the workspace."""
    with workspace.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "chexseg_platform.cli", stage, str(folder / "kills.yaml"),
             "--workspace", str(workspace), "--no-tracking"],
            env=os.environ | {"RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"},
            stdout=log, stderr=log,
        )  # fmt: skip


def ended(run: subprocess.Popen[bytes]) -> int | str:
    """Return how a run ended; one past its bound is killed, and says so."""
    try:
        return run.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        return f"none in {PATIENCE} s"


def digests(workspace: Path, kinds: tuple[str, ...]) -> Digests:
    """Return the digest of every part of every artifact, each part read against it."""
    made: Digests = {}
    for kind in kinds:
        for artifact in Workspace(workspace).artifacts(kind):
            for part in artifact.parts():
                artifact.read(part.name)
            made[f"{kind}/{artifact.fingerprint}"] = {p.name: p.sha256 for p in artifact.parts()}
    return made


def files(workspace: Path) -> dict[str, int]:
    """Count files by their first folder."""
    counts: dict[str, int] = {}
    for path in workspace.rglob("*"):
        if path.is_file():
            first = path.relative_to(workspace).parts[0]
            counts[first] = counts.get(first, 0) + 1
    return counts


def times(workspace: Path) -> dict[str, int]:
    """Return when each file of an artifact was written."""
    return {str(p): p.stat().st_mtime_ns for p in workspace.rglob("*") if p.is_file()}


def in_peace(folder: Path, address: str) -> dict[str, Undisturbed]:
    """Run every stage once, one after another."""
    workspace, made = folder / "undisturbed", {}
    workspace.mkdir(parents=True)
    for stage, kinds in STAGES.items():
        before = folder / "before" / stage
        shutil.copytree(workspace, before)
        began = time.monotonic()
        if ended(start(stage, folder, workspace, address)):
            raise RuntimeError(workspace.with_suffix(".log").read_text()[-2000:])
        seconds = time.monotonic() - began
        made[stage] = Undisturbed(seconds, before, digests(workspace, kinds), files(workspace))
        print(f"undisturbed {stage}: {seconds:.1f} s", flush=True)
    return made


def kill(victim: str, choice: random.Random, run: subprocess.Popen[bytes], cluster: Nodes) -> bool:
    """Kill the victim; False if there was none by the time the run ended."""
    while run.poll() is None:
        if victim == "driver":
            run.kill()
            return True
        if victim == "raylet":
            cluster.tell("lose")
            return True
        at_work = cluster.workers()
        if at_work:
            choice.choice(at_work).kill()
            return True
        time.sleep(0.1)
    return False


def faults(stage: str, peace: Undisturbed, workspace: Path) -> list[str]:
    """Return what is wrong with what a stage made, next to the undisturbed run."""
    found = []
    made = digests(workspace, STAGES[stage])
    if made.keys() != peace.made.keys():
        found.append(f"{len(made)} artifacts for {len(peace.made)}")
    for name, parts in peace.made.items():
        if name.startswith(SAME) and made.get(name) != parts:
            found.append(f"{name} differs")
        if set(made.get(name, ())) != set(parts):
            found.append(f"{name} has other parts")
    for kind in {"classifier", "segmenter"} & set(STAGES[stage]):
        for artifact in Workspace(workspace).artifacts(kind):
            steps = [row["step"] for row in artifact.json("history.json")]
            if steps != sorted(set(steps)):
                found.append(f"{kind} has a validation twice")
    left = {
        folder: number - peace.files.get(folder, 0)
        for folder, number in files(workspace).items()
        if number > peace.files.get(folder, 0)
    }
    if left:
        found.append(f"files left: {left}")
    return found


def one(
    seed: int, folder: Path, peace: dict[str, Undisturbed], cluster: Nodes
) -> tuple[str, bool, list[str]]:
    """Kill once and run again; return a line of what happened, whether it hit, what is wrong."""
    choice = random.Random(seed)
    stage, victim = choice.choice(list(STAGES)), choice.choice(VICTIMS)
    share = choice.uniform(0.1, 0.9)
    workspace = folder / f"kill-{seed}"
    shutil.copytree(peace[stage].before, workspace)
    run = start(stage, folder, workspace, cluster.address)
    time.sleep(share * peace[stage].seconds)
    hit, wrong = kill(victim, choice, run, cluster), []
    began = time.monotonic()
    code = ended(run)
    if isinstance(code, str):
        wrong.append("it did not end in its bound")
    if victim == "raylet" and hit:
        cluster.tell("add")
    log = workspace.with_suffix(".log")
    if code and victim != "driver" and "Traceback" in log.read_text():
        wrong.append("a traceback")
    again = ended(start(stage, folder, workspace, cluster.address)) if code else 0
    if again:
        wrong.append(f"run again, it ended with {again}")
    else:
        wrong += faults(stage, peace[stage], workspace)
        before = times(workspace)
        if ended(start(stage, folder, workspace, cluster.address)):
            wrong.append("a third run failed")
        if times(workspace) != before:
            wrong.append("a third run wrote")
    word = "" if hit else " (missed)"
    line = (
        f"seed {seed}: {stage}, {victim}{word} at {share:.0%}, exit {code}, "
        f"whole {time.monotonic() - began:.0f} s later"
    )
    if not wrong:
        shutil.rmtree(workspace)
    return line, hit, wrong


def main() -> int:
    """Kill, say what happened, and return 1 if anything is wrong or nothing was hit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    wish = parser.parse_args()
    folder = wish.folder.resolve()
    folder.mkdir(parents=True)
    resources = {"timeout_minutes": 3.0, "cache": str(folder / "cache")}
    (folder / "kills.yaml").write_text(yaml.safe_dump({**SETTINGS, "resources": resources}))
    bad = missed = 0
    with nodes() as cluster:
        peace = in_peace(folder, cluster.address)
        for seed in range(wish.seed, wish.seed + wish.kills):
            line, hit, wrong = one(seed, folder, peace, cluster)
            bad, missed = bad + bool(wrong), missed + (not hit)
            print(line + (f": {'; '.join(wrong)}" if wrong else ""), flush=True)
    print(f"{wish.kills} kills, {missed} missed, {bad} with something wrong")
    return int(bad > 0 or missed == wish.kills)


if __name__ == "__main__":
    sys.exit(main())
