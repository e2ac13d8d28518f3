"""The folder `platform` must never hide Python's own module of that name, on which Ray depends."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

STANDARD = Path(sysconfig.get_path("stdlib")) / "platform.py"


def test_it_is_no_package(repository: Path) -> None:
    assert (repository / "platform").is_dir()
    assert not (repository / "platform" / "__init__.py").exists()


def test_python_in_the_root_finds_its_own(repository: Path) -> None:
    code = "import platform; platform.system(); print(platform.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == STANDARD


def test_this_test_can_fail(tmp_path: Path) -> None:
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "__init__.py").touch()
    code = "import platform; print(platform.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) != STANDARD


DRIVER = """
import sys, ray
from pathlib import Path
import platform
from chexseg_platform import cluster
cluster.connect()

@ray.remote(runtime_env={"env_vars": {"PYTHONPATH": sys.argv[1]}})
def worker():
    import platform, sys
    platform.system()
    return platform.__file__, sys.path

found, searched = ray.get(worker.remote())
assert sys.argv[1] in searched
print(platform.__file__, found, sep="\\n")
cluster.disconnect()
"""


@pytest.mark.ray
def test_a_ray_driver_and_its_workers_find_it(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    found = subprocess.run(
        [sys.executable, str(script), str(repository)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    driver, worker = found.stdout.split()[-2:]
    assert Path(driver) == STANDARD
    assert Path(worker) == STANDARD
