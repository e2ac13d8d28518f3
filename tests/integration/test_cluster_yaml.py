"""`cluster.yaml` is what Ray's launcher takes, and says what production needs."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config


@pytest.fixture
def wish(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "cluster.yaml").read_text())


def test_valid_under_rays_own_schema(wish: dict[str, Any]) -> None:
    validate_config(prepare_config(deepcopy(wish)))


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ((), "idle_timeout_minute", 10),
        (("available_node_types", "gpu-spot"), "max_worker", 3),
        (("available_node_types", "gpu-spot"), "resources", {"GPU": "one"}),
        ((), "head_node_type", "haed"),
    ],
)
def test_a_slip_is_caught(
    wish: dict[str, Any], place: tuple[str, ...], name: str, value: object
) -> None:
    spot = wish
    for key in place:
        spot = spot[key]
    spot[name] = value
    with pytest.raises(Exception, match=r"(?s).*"):
        validate_config(prepare_config(wish))


def test_the_head_takes_no_work_and_workers_start_from_zero(wish: dict[str, Any]) -> None:
    types = wish["available_node_types"]
    assert types[wish["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(kind.get("min_workers", 0) == 0 for kind in types.values())
    spot = [name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]]
    steady = [name for name, kind in types.items() if kind["resources"].get("GPU")]
    fall_back = set(steady) - set(spot)
    assert spot
    assert fall_back
    assert all(types[s]["priority"] > types[o]["priority"] for s in spot for o in fall_back)


def test_disks_are_encrypted_and_the_dashboard_is_private(wish: dict[str, Any]) -> None:
    for kind in wish["available_node_types"].values():
        for disk in kind["node_config"]["BlockDeviceMappings"]:
            assert disk["Ebs"]["Encrypted"] is True
    start = " ".join(wish["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    rules = wish["provider"]["security_group"]["IpPermissions"]
    assert {(rule["FromPort"], rule["ToPort"]) for rule in rules} == {(22, 22)}


def test_the_image_is_pinned(wish: dict[str, Any]) -> None:
    for name in ("image", "head_image"):
        tag = wish["docker"][name].partition(":")[2]
        assert tag[:1].isdigit() or tag.startswith("sha256"), wish["docker"][name]
