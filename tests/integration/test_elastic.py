"""A training of two workers loses a node in the middle, and goes on with one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chexseg_platform.artifacts import Workspace

pytestmark = pytest.mark.ray

PATIENCE = 300
NODES = """
import sys
from ray.cluster_utils import Cluster
args = {"include_dashboard": False, "object_store_memory": 100 << 20}
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **args})
other = nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
print(nodes.address, flush=True)
sys.stdin.readline()
nodes.remove_node(other, allow_graceful=False)  # as a spot machine goes
print("lost", flush=True)
sys.stdin.readline()
nodes.shutdown()
"""


def test_a_training_goes_on_with_the_workers_that_are_left(
    experiment_file: Path, tmp_path: Path
) -> None:
    pipe = subprocess.PIPE
    nodes = subprocess.Popen(
        [sys.executable, "-u", "-c", NODES], stdin=pipe, stdout=pipe, text=True
    )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    address = nodes.stdout.readline().strip()
    sets = ("classifier.epochs=12", "resources.workers=2", "resources.min_workers=1",
            "resources.cpus_per_worker=1")  # fmt: skip
    words = [word for text in sets for word in ("--set", text)]
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "chexseg_platform.cli", "classify", str(experiment_file),
             "--workspace", str(tmp_path), "--no-tracking", *words],
            env=os.environ | {"RAY_ADDRESS": address}, stdout=pipe, stderr=pipe, text=True,
        )  # fmt: skip
        assert run.stderr is not None
        begun = (line for line in run.stderr if line.startswith("classify") and "best" in line)
        next(line for line in begun if not line.startswith("classify  0/"))
        nodes.stdin.write("lose\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline().strip() == "lost"
        began = time.monotonic()
        said, told = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, said + told
        assert time.monotonic() - began > 1, "the training was over before the node was lost"
    finally:
        try:
            nodes.communicate("end\n", timeout=60)
        except subprocess.TimeoutExpired:
            nodes.kill()
            nodes.communicate()
    (made,) = Workspace(tmp_path).artifacts("classifier")
    steps = [row["step"] for row in made.json("history.json")]
    assert steps == sorted(set(steps)), "no validation is there twice"
