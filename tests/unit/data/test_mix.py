"""The mix: proportions, caps and shares, the same whoever draws and whenever."""

import numpy as np
import pytest
from chexseg_platform.data.mix import Batches, Mix, MixError
from hypothesis import given
from hypothesis import strategies as st

MIXES = st.builds(
    Mix,
    expert=st.integers(1, 40),
    pseudo=st.integers(1, 40),
    probability=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
    draws=st.none() | st.integers(1, 200),
    max_repeats=st.none() | st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)


@given(MIXES, st.integers(0, 1000))
def test_properties_of_an_epoch(mix, number):
    rows = mix.epoch(number)
    assert rows.dtype == np.int64
    assert len(rows) == mix.length
    expert, pseudo = rows[rows < mix.expert], rows[rows >= mix.expert] - mix.expert
    for drawn, available in ((expert, mix.expert), (pseudo, mix.pseudo)):
        counts = np.bincount(drawn, minlength=available)
        assert len(counts) == available
        assert counts.max() - counts.min() <= 1
    if mix.max_repeats is not None and len(expert):
        assert np.bincount(expert).max() <= mix.max_repeats
    if mix.probability in (0, 1):
        assert len(expert) == mix.probability * len(rows)
    again = Mix(**{name: getattr(mix, name) for name in mix.__dataclass_fields__})
    np.testing.assert_array_equal(again.epoch(number), rows)


def test_the_proportion_is_the_chance():
    rows = Mix(10, 1000, 0.9, draws=20_000).epoch(0)
    share = (rows < 10).mean()
    assert abs(share - 0.9) < 4 * (0.9 * 0.1 / 20_000) ** 0.5


def test_epochs_and_seeds_differ():
    mix = Mix(20, 20, 0.5)
    drawn = [mix.epoch(0), mix.epoch(1), Mix(20, 20, 0.5, seed=1).epoch(0)]
    for first in range(3):
        for second in range(first):
            assert not np.array_equal(drawn[first], drawn[second])


@pytest.mark.parametrize(
    ("probability", "draws", "max_repeats", "length"),
    [
        (0.5, None, None, 40),
        (1.0, None, None, 10),
        (0.0, None, None, 30),
        (0.9, 100, None, 100),
        (1.0, 100, 3, 30),  # no pseudo rows may stand in
        (1.0, 20, 3, 20),
        (0.9, 100, 3, 100),
    ],
)
def test_draws_of_an_epoch(probability, draws, max_repeats, length):
    assert Mix(10, 30, probability, draws, max_repeats).length == length


def test_draws_over_the_cap_are_spread_over_the_epoch():
    rows = Mix(10, 1000, 0.9, draws=1000, max_repeats=10).epoch(0)
    is_expert = rows < 10
    assert is_expert.sum() == 100
    by_quarter = is_expert.reshape(4, 250).sum(axis=1)
    assert by_quarter.min() > 10
    assert by_quarter.max() < 40


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((0, 5, 0.5), "there is no expert-labelled image. Add masks"),
        ((5, 0, 0.5), "there is no pseudo-labelled image. Add training images"),
        ((0, 5, 1.0), "no expert-labelled"),
        ((5, 0, 0.0), "no pseudo-labelled"),
        ((0, 0, 1.0), "no expert-labelled"),
        ((5, 5, 1.5), "lies between 0 and 1"),
        ((5, 5, float("nan")), "lies between 0 and 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(fields, words):
    with pytest.raises(MixError, match=words):
        Mix(*fields)


def test_the_ends_need_one_kind_only():
    assert (Mix(5, 0, 1.0).epoch(0) < 5).all()
    assert (Mix(0, 5, 0.0).epoch(3) < 5).all()


def test_the_summary_says_what_an_epoch_holds():
    text = Mix(10, 1000, 1.0, draws=25).summary()
    assert text == (
        "25 draws an epoch: 25 expert (10 rows 2.50 times each) "
        "and 0 pseudo (1,000 rows 0.00 times each)"
    )
    assert Mix(0, 1000, 0.0).summary().startswith("1,000 draws an epoch: 0 expert (no rows) and ")


@given(MIXES, st.integers(1, 16), st.integers(1, 4), st.integers(0, 50))
def test_the_shares_of_the_workers_are_the_batch(mix, batch_size, world, step):
    if batch_size < world or mix.length < world:
        return
    shares = [Batches(mix, batch_size, rank, world).rows(step) for rank in range(world)]
    whole = Batches(mix, batch_size).rows(step)
    together = np.empty_like(whole)
    for rank, share in enumerate(shares):
        assert len(share) > 0
        together[rank::world] = share
    np.testing.assert_array_equal(together, whole)


def test_batches_go_through_an_epoch_and_on_to_the_next_in_any_order():
    mix = Mix(5, 18, 0.2, seed=3)
    batches = Batches(mix, 4)
    assert batches.steps_per_epoch == 5
    rows = [batches.rows(step) for step in range(12)]
    np.testing.assert_array_equal(np.concatenate(rows[:5]), mix.epoch(0)[:20])
    np.testing.assert_array_equal(np.concatenate(rows[5:10]), mix.epoch(1)[:20])
    for step in (11, 0, 7, 3):
        np.testing.assert_array_equal(batches.rows(step), rows[step])


def test_an_epoch_smaller_than_a_batch_is_one_short_batch():
    batches = Batches(Mix(3, 0, 1.0), 8)
    assert batches.steps_per_epoch == 1
    assert sorted(batches.rows(0)) == sorted(batches.rows(5)) == [0, 1, 2]


def test_workers_without_a_share_are_refused():
    with pytest.raises(MixError, match="a batch of 2 cannot be shared by 3 workers"):
        Batches(Mix(5, 0, 1.0), 2, 0, 3)
    with pytest.raises(MixError, match="an epoch of 2 draws cannot be shared by 3 workers"):
        Batches(Mix(2, 0, 1.0), 8, 0, 3)
