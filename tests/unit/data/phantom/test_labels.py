"""Labels: rates near the published ones, rules between findings, the real table where present."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chexseg_platform.data.phantom.labels import (
    DISEASES,
    LOADINGS,
    PREVALENCE,
    REPORTED,
    STATE_ODDS,
    expert_labels,
    report_labels,
    sample_illness,
    sample_truth,
)
from chexseg_platform.findings import OBSERVATIONS

REAL = Path(__file__).resolve().parents[4] / "../shared/data/chexpert_labels/train.csv.gz"


def truths(split: str, count: int = 4000) -> list[set[str]]:
    rng = np.random.default_rng(0)
    return [sample_truth(sample_illness(rng), split, rng)[0] for _ in range(count)]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_prevalence_comes_out_as_set(split: str) -> None:
    drawn = truths(split)
    for name, rate in PREVALENCE[split].items():
        share = np.mean([name in present for present in drawn])
        assert abs(share - rate) < 0.03, name


def test_parents_follow_their_children() -> None:
    drawn = truths("valid")
    assert all("Enlarged Cardiomediastinum" in p for p in drawn if "Cardiomegaly" in p)
    opaque = ["Lung Opacity" in p for p in drawn if "Consolidation" in p]
    assert np.mean(opaque) > 0.9


def test_state_odds_are_probabilities() -> None:
    for name in DISEASES:
        for odds in STATE_ODDS[name]:
            assert np.all(np.diff(odds) >= 0), name
            assert 0 <= odds[0] <= odds[-1] <= 1, name
    assert all(math.hypot(*LOADINGS[name]) < 1 for name in DISEASES)


def test_report_labels_have_the_published_shares() -> None:
    rng = np.random.default_rng(1)
    reports = [report_labels(present, rng) for present in truths("train", 8000)]
    for name, rates in REPORTED.items():
        for value, rate in zip((1, 0, -1), rates, strict=True):
            share = np.mean([report[name] == value for report in reports])
            assert abs(share - rate) < 0.025, (name, value)
    nothing = np.mean([report["No Finding"] == 1 for report in reports])
    assert abs(nothing - 0.0886) < 0.02
    assert all(report["No Finding"] in (1, None) for report in reports)


def test_some_reports_are_wrong_both_ways() -> None:
    rng = np.random.default_rng(2)
    name = "Pleural Effusion"
    pairs = [(name in p, report_labels(p, rng)[name]) for p in truths("train")]
    assert (True, 0) in pairs
    assert (False, 1) in pairs


def test_no_finding_rules_out_the_others_but_not_devices() -> None:
    assert expert_labels(set())["No Finding"] == 1
    assert expert_labels({"Support Devices"})["No Finding"] == 1
    assert expert_labels({"Edema"})["No Finding"] == 0
    assert list(expert_labels({"Edema"})) == list(OBSERVATIONS)
    rng = np.random.default_rng(3)
    for present in truths("train", 1000):
        report = report_labels(present, rng)
        if report["No Finding"] == 1:
            others = {report[n] for n in DISEASES if n != "Support Devices"}
            assert others <= {0, None}


def test_reported_shares_are_those_of_the_real_table() -> None:
    if not REAL.is_file():
        pytest.skip("the real CheXpert label table is not beside the repository")
    table = pd.read_csv(REAL, usecols=["Path", *REPORTED])
    studies = table.loc[~table["Path"].str.rpartition("/")[0].duplicated()]
    for name, rates in REPORTED.items():
        shares = [(studies[name] == value).mean() for value in (1, 0, -1)]
        assert np.allclose(shares, rates, atol=1e-4), name
