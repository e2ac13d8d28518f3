"""What a cluster and its services are launched by is valid, pinned, and closed to strangers."""

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from chexseg_platform.stages.submission import ENVIRONMENT
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

DEFINITIONS = (Path(__file__).resolve().parents[2] / "../shared/data/kuberay_crd").resolve()


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


def test_nodes_have_roles_of_their_own_and_workers_start_no_machines(wish: dict[str, Any]) -> None:
    types = wish["available_node_types"]
    roles = {
        name: kind["node_config"]["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        for name, kind in types.items()
    }
    assert roles.pop("head") == "chexseg-head"
    assert set(roles.values()) == {"chexseg-worker"}
    assert all(
        kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        for kind in types.values()
    )


def test_the_image_is_pinned(wish: dict[str, Any]) -> None:
    for name in ("image", "head_image"):
        tag = wish["docker"][name].partition(":")[2]
        assert tag[:1].isdigit() or tag.startswith("sha256"), wish["docker"][name]


def documents(repository: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((repository / "kuberay.yaml").read_text())
    return {document["kind"]: document for document in found}


def published(kind: str) -> dict[str, Any]:
    """The schema of KubeRay's definition of a kind, in which unknown fields are errors."""
    file = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"KubeRay's published definitions are not at {DEFINITIONS}")
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    open_ = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_:
        made["additionalProperties"] = False
    return made


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_kuberay_takes_the_manifest(repository: Path, kind: str) -> None:
    document = documents(repository)[kind]
    # The published schema leaves an object's own metadata open.
    wish = {key: value for key, value in document.items() if key != "metadata"}
    errors = list(Draft202012Validator(published(kind)).iter_errors(wish))
    assert not errors, [f"{'.'.join(map(str, e.path))}: {e.message}" for e in errors]


def test_a_slip_in_the_manifest_is_caught(repository: Path) -> None:
    wish = documents(repository)["RayCluster"]
    wish["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    assert list(Draft202012Validator(published("RayCluster")).iter_errors(wish))


def test_pods_are_nobody_and_workers_start_from_zero(repository: Path) -> None:
    spec = documents(repository)["RayCluster"]["spec"]
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = spec["workerGroupSpecs"]
    assert all(group["minReplicas"] == 0 for group in groups)
    for group in (spec["headGroupSpec"], *groups):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    by_name = {group["groupName"]: group for group in groups}
    assert by_name["gpu-spot"]["priority"] > by_name["gpu-on-demand"]["priority"]


def test_a_kubernetes_job_finds_what_every_job_finds(repository: Path) -> None:
    job = documents(repository)["RayJob"]["spec"]
    assert yaml.safe_load(job["runtimeEnvYAML"])["env_vars"] == ENVIRONMENT
    selected = documents(repository)["RayCluster"]["metadata"]["name"]
    assert job["clusterSelector"] == {"ray.io/cluster": selected}


def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_image_pins_what_the_project_asks(repository: Path, wish: dict[str, Any]) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["service"]]
    pinned = pins(repository)
    for need in map(Requirement, asked):
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need
    ray = pinned["ray"]
    assert f"FROM rayproject/ray:{ray}-" in (repository / "Dockerfile").read_text()
    for name in ("image", "head_image"):
        assert wish["docker"][name].startswith(f"rayproject/ray:{ray}-")
    assert documents(repository)["RayCluster"]["spec"]["rayVersion"] == ray


def test_no_file_of_the_cluster_holds_an_address_of_a_registry(repository: Path) -> None:
    for name in ("constraints.txt", "Dockerfile", "pyproject.toml"):
        text = (repository / name).read_text()
        assert "index-url" not in text
        assert "://" not in text or name == "pyproject.toml"


def test_the_tracking_service_answers_on_this_machine_only(repository: Path) -> None:
    text = (repository / "docker-compose.yaml").read_text()
    compose = yaml.safe_load(text)
    services = compose["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:5000:5000"]
    assert compose["networks"]["inside"]["internal"] is True
    assert services["postgres"]["networks"] == ["inside"]
    assert "--app-name basic-auth" in text
    # Passwords are read from files that git does not see.
    for secret in compose["secrets"].values():
        assert secret["file"].startswith("secrets/")
    assert "/secrets/" in (repository / ".gitignore").read_text().splitlines()
    assert f"mlflow[auth]=={pins(repository)['mlflow']}" in text
