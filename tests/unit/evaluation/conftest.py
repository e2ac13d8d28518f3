"""Makers of small count tables, which the tests of this folder share as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from chexseg_platform.evaluation.counts import CountCube, count_table, cube
from chexseg_platform.evaluation.steps import Trained


def make_cube(
    truth: np.ndarray,
    prediction: np.ndarray,
    intersection: np.ndarray,
    *,
    runs: tuple[tuple[str, int], ...] = (("mix", 0),),
    patients: tuple[str, ...] | None = None,
    known: np.ndarray | None = None,
) -> CountCube:
    """A cube from integer arrays; (N, K) arrays serve every run."""
    shape = (len(runs), *np.shape(truth)[-2:])
    arrays = [np.broadcast_to(a, shape).astype(np.int64) for a in (truth, prediction, intersection)]
    images = tuple(f"image{index}" for index in range(shape[1]))
    return CountCube(
        runs=runs,
        image_ids=images,
        patients=patients or images,
        findings=tuple(f"finding{index}" for index in range(shape[2])),
        truth=arrays[0],
        prediction=arrays[1],
        intersection=arrays[2],
        hit=np.full(shape, np.nan),
        hd95=np.full(shape, np.nan),
        pixels=np.full(shape[1], 10**6),
        traits=dict.fromkeys(("sex", "age", "view"), (None,) * shape[1]),
        known=np.ones(shape, bool) if known is None else np.broadcast_to(known, shape),
    )


def make_random_cube(
    seed: int, *, runs: int = 1, images: int = 12, findings: int = 3, patients: int = 7
) -> CountCube:
    """Counts with empty truths and empty predictions among them; runs "m0", "m1", ..."""
    rng = np.random.default_rng(seed)
    shape = (runs, images, findings)
    truth = np.broadcast_to(rng.integers(1, 1000, shape[1:]) * (rng.random(shape[1:]) < 0.6), shape)
    prediction = rng.integers(1, 1000, shape) * (rng.random(shape) < 0.7)
    intersection = (rng.random(shape) * np.minimum(truth, prediction)).astype(np.int64)
    return make_cube(
        truth,
        prediction,
        intersection,
        runs=tuple((f"m{index}", 0) for index in range(runs)),
        patients=tuple(f"p{code}" for code in rng.integers(0, patients, images)),
    )


def make_comparison_cube(*, images: int = 24, readers: bool = True) -> CountCube:
    """The methods of a real comparison, through the table; radiologists missed one image."""
    rng = np.random.default_rng(5)
    quality = {"expert only": 0.5, "pseudo only": 0.3, "mix": 0.6, "radiologists": 0.9}
    rows = []
    findings = ("Cardiomegaly", "Edema", "Lung Lesion")
    truth = rng.integers(100, 900, (images, 2)) * (rng.random((images, 2)) < 0.8)
    for method, share in quality.items():
        if method == "radiologists" and not readers:
            continue
        for seed in range(1 if method == "radiologists" else 2):
            for image in range(images):
                for index, finding in enumerate(findings):
                    pixels = int(truth[image, index]) if index < 2 else 0
                    both = int(pixels * share * rng.uniform(0.8, 1.0))
                    unread = method == "radiologists" and image == 3
                    rows.append(
                        {
                            "method": method,
                            "seed": seed,
                            "split": "test",
                            "image_id": f"patient{image // 2}_study1_view{image % 2 + 1}_frontal",
                            "patient": f"patient{image // 2}",
                            "finding": finding,
                            "height": 40,
                            "width": 50,
                            "truth": None if unread else pixels,
                            "prediction": both + int(rng.integers(0, 60)),
                            "intersection": None if unread else both,
                            "hit": None,
                        }
                    )
    return cube(count_table(rows))


@pytest.fixture(scope="session")
def cube_of() -> Callable[..., CountCube]:
    return make_cube


@pytest.fixture(scope="session")
def random_cube() -> Callable[..., CountCube]:
    return make_random_cube


@pytest.fixture(scope="session")
def comparison_cube() -> Callable[..., CountCube]:
    return make_comparison_cube


def counted_rows(
    method: str, seed: int, image: int, finding: str, areas: tuple[int | None, int, int | None]
) -> dict[str, object]:
    truth, prediction, intersection = areas
    return {
        "method": method,
        "seed": seed,
        "split": "test",
        "image_id": f"image{image}",
        "patient": f"patient{image}",
        "finding": finding,
        "height": 40,
        "width": 50,
        "truth": truth,
        "prediction": prediction,
        "intersection": intersection,
    }


def training(task: str, initialisation: str, fraction: float, seed: int) -> Trained:
    history = [{"step": 10, "score": 0.5}, {"step": 20, "score": 0.6}]
    return Trained(
        task=task,
        initialisation=initialisation,
        fraction=fraction,
        images=7,
        seed=seed,
        history=history,
    )


Grid = tuple[list[Trained], pa.Table]
Areas = tuple[int | None, int, int | None]


@pytest.fixture(scope="session")
def make_grid() -> Callable[..., Grid]:
    """Hearts from half of the images: initialisation -> per seed, per image, its three areas."""

    def made(runs: dict[str, list[list[Areas]]]) -> Grid:
        seeds = [
            (name, seed, areas) for name, all_ in runs.items() for seed, areas in enumerate(all_)
        ]
        rows = [
            counted_rows(name, seed, image, "Heart", areas)
            for name, seed, images in seeds
            for image, areas in enumerate(images)
        ]
        trained = [training("heart", name, 0.5, seed) for name, seed, _ in seeds]
        return trained, count_table(rows)

    return made


@pytest.fixture(scope="session")
def make_random_grid() -> Callable[..., Grid]:
    """Two organs on 12 images from a tenth of them, two seeds; `unknown` images lack a heart."""

    def made(names: list[str], unknown: int = 0) -> Grid:
        rng = np.random.default_rng(3)
        truth = rng.integers(100, 900, (12, 2))
        rows = []
        for name, seed, image, (k, finding) in product(
            names, range(2), range(12), enumerate(("Lungs", "Heart"))
        ):
            pixels = int(truth[image, k])
            known = k == 0 or image >= unknown
            both = int(pixels * rng.uniform(0.4 + 0.1 * names.index(name), 1.0))
            areas = (pixels, both + 20, both) if known else (None, both + 20, None)
            rows.append(counted_rows(name, seed, image, finding, areas))
        trained = [training("organs", name, 0.1, seed) for name in names for seed in range(2)]
        return trained, count_table(rows)

    return made
