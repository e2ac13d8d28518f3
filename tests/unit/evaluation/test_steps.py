"""Steps to 95 % of the best score, by hand."""

import math

import pytest
from chexseg_platform.evaluation.steps import (
    BrokenGrid,
    Steps,
    Trained,
    best_score,
    efficiencies,
    steps_to,
)


def history(*scores):
    return [{"step": 10 * (n + 1), "score": score} for n, score in enumerate(scores)]


def trained(initialisation, seed, *scores, task="lungs", fraction=0.1):
    return Trained(
        task=task,
        initialisation=initialisation,
        fraction=fraction,
        images=5,
        seed=seed,
        history=history(*scores),
    )


@pytest.mark.parametrize(
    ("target", "expected"), [(0.3, 10), (0.31, 30), (0.6, 30), (0.61, None), (0, 10)]
)
def test_the_first_validation_at_the_target_counts(target, expected):
    assert steps_to(history(0.3, 0.2, 0.6, 0.5), target) == expected


def test_validations_without_a_score_are_passed_over():
    rows = [{"step": 1}, {"step": 2, "score": math.nan}, {"step": 3, "score": 0.5}]
    assert steps_to(rows, 0.4) == 3
    assert best_score(rows) == 0.5
    assert steps_to([], 0.4) is None
    assert best_score([{"step": 1}, {"step": 2, "score": -1.0}]) == 0


def test_the_target_is_that_of_the_seed_whoever_set_it():
    found = efficiencies(
        [
            trained("random", 0, 0.2, 0.4, 0.8),  # best of seed 0: 0.8, target 0.76
            trained("random", 1, 0.1, 0.2, 0.3),  # best of seed 1: 0.4, target 0.38
            trained("doll", 0, 0.5, 0.77, 0.6),
            trained("doll", 1, 0.4, 0.2, 0.3),
        ]
    )
    random, doll = found
    assert [item.initialisation for item in found] == ["random", "doll"]
    assert random.seeds == (Steps(0, pytest.approx(0.76), 30), Steps(1, pytest.approx(0.38), None))
    assert doll.seeds == (Steps(0, pytest.approx(0.76), 20), Steps(1, pytest.approx(0.38), 10))
    assert (random.median, random.reached, random.ratio) == (math.inf, 1, None)
    assert (doll.median, doll.reached, doll.ratio) == (15, 2, None)


def test_never_is_infinite_in_the_median():
    slow = [trained("slow", seed, 0.1, 0.1, score) for seed, score in enumerate((0.5, 0.5, 0.1))]
    fast = [trained("random", seed, 0.1, 0.5) for seed in range(3)]
    found = {item.initialisation: item for item in efficiencies([*slow, *fast])}
    assert [seed.step for seed in found["slow"].seeds] == [30, 30, None]
    assert (found["slow"].median, found["slow"].reached) == (30, 2)
    assert found["slow"].ratio == 30 / 20
    assert found["random"].ratio == 1


def test_without_random_there_is_no_ratio():
    assert [item.ratio for item in efficiencies([trained("doll", 0, 0.5)])] == [None]


def test_fractions_and_tasks_have_their_own_targets():
    found = efficiencies(
        [
            trained("random", 0, 0.5, 0.9),
            trained("random", 0, 0.5, 0.5, fraction=0.2),
            trained("random", 0, 0.2, 0.21, task="heart"),
        ]
    )
    assert [(item.task, item.fraction, item.median) for item in found] == [
        ("lungs", 0.1, 20),
        ("lungs", 0.2, 10),
        ("heart", 0.1, 10),
    ]


def test_where_nobody_scores_there_is_no_target():
    (found,) = efficiencies([trained("random", 0, 0.0, 0.0)])
    assert found.seeds == (Steps(0, None, None),)
    assert (found.median, found.ratio) == (math.inf, None)


def test_a_training_that_is_there_twice_is_refused():
    with pytest.raises(BrokenGrid, match=r"lungs from doll with 0\.1 .* seed 3 is there twice"):
        efficiencies([trained("doll", 3, 0.5), trained("doll", 3, 0.6)])
