"""The one door to Ray's start-up: join the cluster there is, or start a quiet one on this machine.

Also what the cluster holds, and how a stage's trainings share it: the numbers come from the
cluster as it is. An autoscaling cluster has no GPU up until something asks for one; so where
`resources` names GPUs, they are asked for and waited for, and nothing is ever waited for without
a word and without an end.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from chexseg_platform.config import OBJECT_STORE_BYTES, Resources
from chexseg_platform.progress import Progress

_QUICK = {
    # Start-up of a training falls from 18 s to 10 s on two cores; nobody watches for preemption
    # or scrapes metrics on a private cluster.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
_ALWAYS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C ends a sweep; Tune's own handler would end its trials as if they had been stopped.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Ray tells the terminal about its scheduling; what matters to a person reaches them as errors.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_maximum_startup_concurrency": "32",
    "RAY_AIR_NEW_OUTPUT": "0",
}
_PICKLE_SWITCHES = (
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
)
LAUNCHED = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves a cluster's file on its head, which runs the drivers of jobs."""


class ClusterError(ValueError):
    """The cluster cannot be reached, or does not hold what was asked for."""


@dataclass(frozen=True)
class Supply:
    """What a cluster holds in all, and on its largest node."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ", no GPU"
        return f"{self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class TrainingPlan:
    """How trainings share a cluster: workers each, their size, and how many run at a time.

    Attributes:
        least: how few workers a training goes on with when nodes are lost; None for all of them.
    """

    workers: int
    cpus: float
    gpus: float
    parallel: int
    least: int | None = None

    @property
    def number(self) -> int | tuple[int, int]:
        """Workers as Ray Train takes them: a number, or the fewest and the most."""
        return self.workers if self.least is None else (self.least, self.workers)

    @property
    def per_worker(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    @property
    def size(self) -> str:
        return f"{self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")

    def __str__(self) -> str:
        some = f"{self.least} to " if self.least is not None else ""
        each = f"{some}{self.workers} worker{'s' if self.workers > 1 else ''} x {self.size}"
        return f"{each}, {self.parallel} at a time" if self.parallel > 1 else each


def local_supply() -> Supply:
    """Return what a private cluster on this machine would hold, without starting one."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Supply(cpus, gpus, cpus, gpus)


def connect(wish: Resources | None = None) -> Supply:
    """Join the cluster of RAY_ADDRESS (a submitted job has one), or start one on loopback.

    Args:
        wish: what it names is waited for on a joined cluster, which may start more nodes.

    Raises:
        ClusterError: saying what is wrong and what to do.
    """
    refuse_pickle_switches()
    if not ray.is_initialized():
        for name, value in _ALWAYS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray").setLevel(logging.ERROR)
        if os.environ.get("RAY_ADDRESS"):
            _join()
        else:
            _start()
        _end_as_by_ctrl_c()
    _quiet_data()
    if wish is not None and os.environ.get("RAY_ADDRESS"):
        _wait_for(wish, supply())
    return supply()


def _end_as_by_ctrl_c() -> None:
    """Let SIGTERM, by which schedulers and containers end a process, do what Ctrl-C does.

    Ray's own handler prints its native stack and aborts. Signals can be set by a main thread only.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def refuse_pickle_switches() -> None:
    """Raise ClusterError if the environment lets Ray run code from data files."""
    on = [name for name in _PICKLE_SWITCHES if os.environ.get(name, "0").lower() in {"1", "true"}]
    if on:
        raise ClusterError(
            f"{' and '.join(on)} would let a data file run code on the cluster. Unset it."
        )


def _join() -> None:
    address = os.environ["RAY_ADDRESS"]
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"the Ray cluster at {address} does not answer ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Check RAY_ADDRESS and RAY_AUTH_MODE, "
            "or unset RAY_ADDRESS to run on this machine."
        ) from None


def _start() -> None:
    for name, value in _QUICK.items():
        os.environ.setdefault(name, value)
    memory = psutil.virtual_memory().available
    if memory < 2 * OBJECT_STORE_BYTES:
        raise ClusterError(
            f"{memory / 2**30:.1f} GiB of memory are free; Ray and a training need 2 GiB at the "
            "least. Close other programs, or join a cluster with RAY_ADDRESS."
        )
    supply = local_supply()
    try:
        with _hushed():
            ray.init(
                address="local",  # and not another's Ray on this machine
                num_cpus=int(supply.cpus),
                num_gpus=int(supply.gpus),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
    except Exception as error:  # Ray raises a bare one when its processes do not come up in time
        raise ClusterError(
            f"Ray could not start on this machine: {str(error).splitlines()[0]} "
            "`chexseg-platform doctor` says what is missing."
        ) from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what Ray's C++ core writes straight to the terminal while it starts off it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _quiet_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # They print the traceback of every error, which is raised besides; and the second sets its
    # own level anew.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)


def supply() -> Supply:
    """Return what the joined cluster holds now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [float(node.get("CPU", 0)) for node in nodes]
    gpus = [float(node.get("GPU", 0)) for node in nodes]
    return Supply(sum(cpus), sum(gpus), max(cpus, default=0), max(gpus, default=0))


def _wait_for(wish: Resources, have: Supply) -> None:
    """Wait until GPU workers that `resources` names are up, `timeout_minutes` at the most.

    Of an elastic training, for as few workers as it begins with: Ray Train asks for the others.
    Where it names no GPU, only for a CPU where there is none. A placement group asks for them:
    every autoscaler of Ray hears of one that cannot be placed, and it is gone with the job, whereas
    `request_resources` outlives a job and is one for all of them.
    """
    gpus = 0.0 if wish.gpus_per_worker == "auto" else wish.gpus_per_worker
    if wish.gpus_per_worker == "auto" and not have.gpus:
        _say_of_gpus(LAUNCHED)
    if not gpus and have.cpus:
        return
    workers = 1 if wish.workers == "auto" else wish.workers
    plan = TrainingPlan(
        workers=_fewest(workers, wish),
        cpus=1.0 if wish.cpus_per_worker == "auto" else wish.cpus_per_worker,
        gpus=gpus,
        parallel=1 if wish.parallel_trainings == "auto" else wish.parallel_trainings,
    )
    total = plan.workers * plan.parallel
    if _up(plan) >= total:
        return
    group = ray.util.placement_group([plan.per_worker] * total)
    deadline = time.monotonic() + wish.timeout_minutes * 60
    try:
        with Progress("cluster", total, f"workers of {plan.size} up") as progress:
            while not group.wait(timeout_seconds=1):
                progress.update(done=min(_up(plan), total))
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"resources asks for {total} x {plan.size}; the cluster has {supply()} and "
                        f"did not start more in {wish.timeout_minutes:g} minutes. Ask for less, "
                        "raise resources.timeout_minutes, or see what its autoscaler says with "
                        "`ray status`."
                    )
            progress.update(done=total)
    finally:
        ray.util.remove_placement_group(group)


@cache
def _say_of_gpus(launched: Path) -> None:
    """Say once that GPU workers could be started, where the cluster's launcher file names some."""
    try:
        types = yaml.safe_load(launched.expanduser().read_text())["available_node_types"]
        names = sorted(name for name in types if types[name]["resources"].get("GPU"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return
    if names:
        print(
            f"no GPU is up, so this runs on CPUs. The cluster can start {' and '.join(names)}: "
            "set resources.gpus_per_worker to 1, and resources.workers or parallel_trainings to "
            "how many, and they are called and waited for.",
            file=sys.stderr,
        )


def _up(plan: TrainingPlan) -> int:
    """Return how many workers of a plan the nodes that are up hold, whatever runs there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        int(min(node.get(name, 0) / each for name, each in plan.per_worker.items()))
        for node in nodes
    )


def here() -> Any:
    """Return the scheduling strategy of what a driver cannot do without.

    Ray would put it on any node, and the run would end with a node that it can well lose.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def own_group() -> str:
    """Return the id of the placement group that this worker runs in; "" outside of one."""
    group = ray.util.get_current_placement_group()
    return group.id.hex() if group is not None else ""


def release(group: str) -> None:
    """Give back what a placement group holds, workers and all; one that is gone is no error."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def disconnect() -> None:
    """Leave the cluster; a private one ends."""
    if ray.is_initialized():
        ray.shutdown()


def plan_training(wish: Resources, have: Supply, trainings: int) -> TrainingPlan:
    """Share a cluster among `trainings` independent trainings.

    With GPUs, one GPU a worker: a single training takes all of them, several take one each.
    Without, trainings run side by side with one thread each as far as there are cores, which
    beats several threads on one small model.

    Raises:
        ClusterError: if not even one training fits.
    """
    workers = wish.workers
    if workers == "auto":
        one_a_gpu = max(1, int(have.gpus))
        workers = one_a_gpu if trainings == 1 else 1
    gpus = wish.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if have.gpus else 0.0
    cpus = wish.cpus_per_worker
    if cpus == "auto":
        cpus = _auto_cpus(have, workers, gpus, trainings)
    fewest = _fewest(workers, wish)
    fits = _fits(have, workers, cpus, gpus) or min(1, _fits(have, fewest, cpus, gpus))
    if fits < 1:
        need = f"{fewest * cpus:g} CPUs" + (f" and {fewest * gpus:g} GPUs" if gpus else "")
        raise ClusterError(
            f"a training asks for {need}; the cluster has {have}. "
            "Lower resources.workers, cpus_per_worker or gpus_per_worker."
        )
    parallel = fits if wish.parallel_trainings == "auto" else min(fits, wish.parallel_trainings)
    least = fewest if fewest < workers else None
    return TrainingPlan(workers, cpus, gpus, min(parallel, max(1, trainings)), least)


def _fewest(workers: int, wish: Resources) -> int:
    """Return how many workers a training begins and goes on with, at the least."""
    return min(workers, wish.min_workers or workers)


def _auto_cpus(have: Supply, workers: int, gpus: float, trainings: int) -> float:
    if gpus:
        return 1.0 if have.cpus >= 1 else 0.0
    side_by_side = min(trainings * workers, int(have.cpus))
    return float(max(1, math.floor(min(have.node_cpus, have.cpus / max(1, side_by_side)))))


def _fits(have: Supply, workers: int, cpus: float, gpus: float) -> int:
    if cpus > have.node_cpus or gpus > have.node_gpus:
        return 0
    by_cpu = have.cpus / (workers * cpus) if cpus else math.inf
    by_gpu = have.gpus / (workers * gpus) if gpus else math.inf
    return int(min(by_cpu, by_gpu, sys.maxsize))
