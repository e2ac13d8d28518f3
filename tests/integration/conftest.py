"""One Ray for all of these tests, and one tiny experiment, run once and looked at by many."""

import os
import shutil
import time

# Before Ray is imported, for its processes inherit them.
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S"] = "240"

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from chexseg_platform import cluster
from chexseg_platform.artifacts import Artifact, Workspace
from chexseg_platform.cluster import Supply
from chexseg_platform.config import Experiment, Phantom, Resources
from chexseg_platform.configfile import load
from chexseg_platform.data import sources
from chexseg_platform.data.phantom import write_phantom
from chexseg_platform.plan import Plan
from chexseg_platform.stages import experiment as whole
from chexseg_platform.stages.context import Context
from chexseg_platform.stages.segment import Inputs, experts_of
from chexseg_platform.tracking import open_tracker

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"phantom": {"train": 40, "valid": 24, "test": 16, "size": 64, "seed": 1}, "size": 64},
    "classifier": {"encoder": "resnet18", "batch_size": 16, "epochs": 1, "keep": 1},
    "segmenter": {
        "architecture": "Unet",
        "encoder": "resnet18",
        "init": "classifier",
        "batch_size": 8,
        "epochs": 1,
        "epoch_images": 16,
        "expert_probability": 0.5,
    },
    "evaluation": {"resamples": 100, "overlays": 2},
    "resources": {"retries": 1, "timeout_minutes": 3.0},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors where the package itself warns; Ray deprecates at every start."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::chexseg_platform"))


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Supply]:
    """A private Ray on loopback, as a user's own run starts it."""
    yield cluster.connect()
    cluster.disconnect()


@pytest.fixture(scope="session")
def idle(ray_cluster: Supply) -> Callable[[], bool]:
    """Whether every CPU of the cluster is free, at the latest after some seconds."""

    def look() -> bool:
        for _ in range(60):
            if ray.available_resources().get("CPU") == ray_cluster.cpus:
                return True
            time.sleep(0.5)
        return False

    return look


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


KINDS = ("dataset", "classifier", "pseudolabels", "segmenter", "evaluation")
Settle = Callable[..., Experiment]


@pytest.fixture(scope="session")
def experiment_file(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The tiny experiment as a file."""
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    resources = {**SETTINGS["resources"], "cache": str(cache)}
    path.write_text(yaml.safe_dump({**SETTINGS, "resources": resources}))
    return path


@pytest.fixture(scope="session")
def settle(experiment_file: Path) -> Settle:
    """Return the tiny experiment with some fields set: settle("segmenter.lr=1e-3")."""
    return lambda *overrides: load(experiment_file, overrides).experiment


@pytest.fixture(scope="session")
def new_context(settle: Settle) -> Callable[[Path], Context]:
    return lambda folder: Context(Workspace(folder), settle().resources)


@dataclass(frozen=True)
class Finished:
    """The tiny experiment, run to its end; the workspace is not to be changed."""

    context: Context
    experiment: Experiment
    chain: Plan
    said: list[str]
    comparison: Artifact

    @property
    def folder(self) -> Path:
        return Path(self.context.workspace.uri)

    def artifact(self, kind: str, print_: str) -> Artifact:
        found = self.context.workspace.find(kind, print_)
        assert found is not None
        return found

    @property
    def dataset(self) -> Artifact:
        return self.artifact("dataset", self.chain.dataset)

    @property
    def classifier(self) -> Artifact:
        return self.artifact("classifier", self.chain.classifier)

    @property
    def pseudolabels(self) -> Artifact:
        return self.artifact("pseudolabels", self.chain.pseudolabels)

    @property
    def inputs(self) -> Inputs:
        share, seed = self.experiment.segmenter.expert_validation, self.experiment.seed
        experts = experts_of(self.dataset, share, seed)
        return Inputs(self.dataset, self.pseudolabels, self.classifier, experts)

    def copy(self, to: Path) -> "Finished":
        """Return it in a workspace of its own, which may be changed."""
        for kind in KINDS:
            shutil.copytree(self.folder / kind, to / kind)
        return replace(self, context=Context(Workspace(to), self.context.resources))

    def with_resources(self, resources: Resources) -> "Finished":
        """Return it where it would run with other resources."""
        return replace(self, context=Context(self.context.workspace, resources))

    def run(self) -> Artifact:
        """Run it again."""
        return _run(self.context, self.experiment, self.chain, self.said)


def _run(context: Context, experiment: Experiment, chain: Plan, said: list[str]) -> Artifact:
    with open_tracker(Path(context.workspace.uri), experiment.name) as tracker:
        return whole.run(context, experiment, chain, tracker, said.append)


@pytest.fixture(scope="session")
def finished(
    ray_cluster: Supply,
    tmp_path_factory: pytest.TempPathFactory,
    settle: Settle,
    new_context: Callable[[Path], Context],
) -> Finished:
    context = new_context(tmp_path_factory.mktemp("finished"))
    experiment = settle()
    chain, said = Plan.of(experiment), list[str]()
    return Finished(context, experiment, chain, said, _run(context, experiment, chain, said))


@dataclass(frozen=True)
class Layout:
    """A phantom's folder, in CheXpert's and CheXlocalize's layouts."""

    root: Path
    phantom: Any

    @property
    def tables(self) -> list[Any]:
        return sources.phantom_tables(self.root, self.phantom)

    def copy(self, to: Path) -> "Layout":
        """Return a copy that may be spoiled."""
        shutil.copytree(self.root, to)
        return Layout(to, self.phantom)


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    wish = Phantom(train=24, valid=12, test=8, size=64, seed=2)
    root = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(root, train=24, valid=12, test=8, size=64, seed=2, workers=1)
    return Layout(root, wish)
