"""How trainings share a cluster, and what is said of one that could start GPUs."""

import json

import pytest
import yaml
from chexseg_platform import cluster
from chexseg_platform.cluster import ClusterError, Supply, TrainingPlan, plan_training
from chexseg_platform.config import Resources

LAPTOP = Supply(8, 0, 8, 0)
NODES = Supply(cpus=64, gpus=4, node_cpus=16, node_gpus=1)


@pytest.mark.parametrize(
    ("wish", "have", "trainings", "plan"),
    [
        ({}, LAPTOP, 1, TrainingPlan(1, 8.0, 0.0, 1)),
        ({}, LAPTOP, 3, TrainingPlan(1, 2.0, 0.0, 3)),
        ({}, LAPTOP, 30, TrainingPlan(1, 1.0, 0.0, 8)),
        ({"workers": 2}, LAPTOP, 1, TrainingPlan(2, 4.0, 0.0, 1)),
        ({"parallel_trainings": 2}, LAPTOP, 30, TrainingPlan(1, 1.0, 0.0, 2)),
        ({}, NODES, 1, TrainingPlan(4, 1.0, 1.0, 1)),
        ({}, NODES, 9, TrainingPlan(1, 1.0, 1.0, 4)),
        ({"workers": 2}, NODES, 9, TrainingPlan(2, 1.0, 1.0, 2)),
        ({"gpus_per_worker": 0.0, "cpus_per_worker": 4.0}, NODES, 9, TrainingPlan(1, 4.0, 0.0, 9)),
        ({"gpus_per_worker": 0.5}, NODES, 9, TrainingPlan(1, 1.0, 0.5, 8)),
        ({"workers": 4, "min_workers": 2}, NODES, 1, TrainingPlan(4, 1.0, 1.0, 1, least=2)),
        ({"workers": 6, "min_workers": 2}, NODES, 9, TrainingPlan(6, 1.0, 1.0, 1, least=2)),
        ({"workers": 2, "min_workers": 2}, NODES, 9, TrainingPlan(2, 1.0, 1.0, 2)),
        ({"min_workers": 3}, LAPTOP, 1, TrainingPlan(1, 8.0, 0.0, 1)),
    ],
)
def test_trainings_share_what_there_is(wish, have, trainings, plan):
    assert plan_training(Resources(**wish), have, trainings) == plan


@pytest.mark.parametrize(
    ("wish", "have", "asked"),
    [
        ({"gpus_per_worker": 1.0}, LAPTOP, "1 GPUs; the cluster has 8 CPUs, no GPU"),
        ({"gpus_per_worker": 2.0, "workers": 1}, NODES, "2 GPUs"),
        ({"workers": 5}, NODES, "5 GPUs; the cluster has 64 CPUs and 4 GPUs"),
        ({"cpus_per_worker": 32.0, "workers": 1}, NODES, "32 CPUs"),
        ({}, Supply(0, 0, 0, 0), "1 CPUs; the cluster has 0 CPUs"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_asked(wish, have, asked):
    with pytest.raises(ClusterError) as refused:
        plan_training(Resources(**wish), have, 1)
    assert asked in str(refused.value)


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_that_a_cluster_could_start_gpus_is_said_once(tmp_path, capsys, write):
    types = {
        "head": {"resources": {"CPU": 0}},
        "cpu": {"resources": {"CPU": 16}},
        "gpu-spot": {"resources": {"CPU": 16, "GPU": 1}},
        "gpu-on-demand": {"resources": {"GPU": 1}},
    }
    file = tmp_path / "launched.yaml"
    file.write_text(write({"available_node_types": types}))
    cluster._say_of_gpus(file)
    said = capsys.readouterr().err
    assert "can start gpu-on-demand and gpu-spot: set resources.gpus_per_worker to 1" in said
    cluster._say_of_gpus(file)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", [None, "", "[]", "{", "available_node_types: {a: 3}", "a: {b: 1}"])
def test_nothing_is_said_of_a_cluster_that_nobody_launched(tmp_path, capsys, text):
    file = tmp_path / "launched.yaml"
    if text is not None:
        file.write_text(text)
    cluster._say_of_gpus(file)
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_no_type_has_a_gpu(tmp_path, capsys):
    file = tmp_path / "launched.yaml"
    file.write_text("available_node_types: {cpu: {resources: {CPU: 16}}}")
    cluster._say_of_gpus(file)
    assert capsys.readouterr().err == ""
