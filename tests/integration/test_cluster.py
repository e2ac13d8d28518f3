"""A cluster: what it starts is waited for, what has failed lets go of it."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chexseg_platform.config import ConfigError
from chexseg_platform.stages.errors import WorkerFailed
from chexseg_platform.stages.pools import pooled

pytestmark = pytest.mark.ray

NODES = """
import sys
from ray.cluster_utils import Cluster
nodes = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20},
)
print(nodes.address, flush=True)
for line in sys.stdin:  # as an autoscaler would, once it has a machine
    nodes.add_node(num_cpus=2, num_gpus=1, object_store_memory=100 << 20)
nodes.shutdown()
"""
DRIVER = """
import sys
from chexseg_platform.cluster import ClusterError, connect, disconnect, plan_training
from chexseg_platform.config import Resources
least = int(sys.argv[2]) if len(sys.argv) > 2 else None
wish = Resources(
    gpus_per_worker=1.0, workers=2, min_workers=least, timeout_minutes=float(sys.argv[1])
)
try:
    print(plan_training(wish, connect(wish), trainings=3))
except ClusterError as error:
    print(error)
disconnect()
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python script that can be talked to; it ends with the test."""
    begun: list[subprocess.Popen[str]] = []

    def begin(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", script, *arguments], env=os.environ | environment,
            stdin=pipe, stdout=pipe, stderr=pipe, text=True,
        )  # fmt: skip
        begun.append(process)
        return process

    yield begin
    for process in reversed(begun):
        try:
            process.communicate(timeout=60)  # the end of its input ends the cluster
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def test_gpus_that_are_named_are_waited_for(start: Start) -> None:
    nodes = start(NODES)
    address = nodes.stdout.readline().strip()

    refused = start(DRIVER, "0.05", RAY_ADDRESS=address)
    said, progress = refused.communicate(timeout=180)
    assert "resources asks for 2 x 1 CPU + 1 GPU; the cluster has 0 CPUs, no GPU" in said
    assert "in 0.05 minutes" in said
    assert "cluster  stopped at 0/2 workers of 1 CPU + 1 GPU up" in progress

    waits = start(DRIVER, "3", RAY_ADDRESS=address)
    # Ray may say something of its own before.
    assert any(line.startswith("cluster  0/2 workers of 1 CPU + 1 GPU") for line in waits.stderr)
    nodes.stdin.write("grow\n")
    nodes.stdin.flush()
    # One of two is up, with which an elastic training begins.
    elastic, _ = start(DRIVER, "3", "1", RAY_ADDRESS=address).communicate(timeout=180)
    assert elastic.strip() == "1 to 2 workers x 1 CPU + 1 GPU"
    nodes.stdin.write("grow\n")
    nodes.stdin.flush()
    said, progress = waits.communicate(timeout=180)
    assert said.strip() == "2 workers x 1 CPU + 1 GPU"
    assert "cluster  2 workers of 1 CPU + 1 GPU up done" in progress

    # They are up, so nothing is waited for.
    said, progress = start(DRIVER, "3", RAY_ADDRESS=address).communicate(timeout=180)
    assert said.strip() == "2 workers x 1 CPU + 1 GPU"
    assert "cluster  " not in progress


class Fails:
    def __init__(self, marker: Path) -> None:
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(4)  # still starting when the other one fails

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if 3 in batch["id"]:
            raise ConfigError("the third will not do")
        return batch


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_pool_keeps_no_cpu_while_its_error_is_kept(
    workers: int, idle: Callable[[], bool], tmp_path: Path
) -> None:
    items = [{"id": number} for number in range(6)]
    arguments = {"marker": tmp_path / "begun"}
    gc.disable()
    try:
        with pytest.raises(WorkerFailed) as failed:
            list(pooled(items, Fails, arguments, workers=workers, cpus=0.5))
        assert idle()
    finally:
        gc.enable()
    assert str(failed.value) == "the third will not do"


def test_a_pool_that_is_left_early_keeps_no_cpu(idle: Callable[[], bool], tmp_path: Path) -> None:
    items = [{"id": number} for number in (7, 8, 9)]
    rows = pooled(items, Fails, {"marker": tmp_path / "begun"}, workers=2, cpus=0.5)
    assert next(rows)["id"] in (7, 8, 9)
    rows.close()
    assert idle()


def test_nothing_to_do_starts_nothing() -> None:
    assert list(pooled([], Fails, {}, workers=2, cpus=0.5)) == []
