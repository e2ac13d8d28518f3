"""The check-up finds what is planted, says how to mend it, and imports nothing heavy."""

import base64
import http.server
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chexseg_platform import doctor
from chexseg_platform import doctor_services as services
from chexseg_platform.cluster import OBJECT_STORE_BYTES
from chexseg_platform.tracking.journal import Journal

GIB = doctor.GIB
SMI = """<?xml version="1.0" ?>
<nvidia_smi_log>
  <driver_version>570.86.15</driver_version>
  <cuda_version>12.8</cuda_version>
  <gpu id="00000000:01:00.0">
    <product_name>NVIDIA L4</product_name>
    <fb_memory_usage><total>23034 MiB</total></fb_memory_usage>
  </gpu>
</nvidia_smi_log>"""


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_whole_check_up_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from chexseg_platform import doctor;"
        "checks = doctor.examine(Path(sys.argv[1])); print(doctor.render(checks));"
        "sys.exit(any(name in sys.modules for name in ('ray', 'torch', 'mlflow')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("Python", "packages", "memory", "GPUs", "workspace", "tracking store"):
        assert f"  {name} " in done.stdout
    assert "check-up" not in done.stdout


def test_a_workspace_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checks = {check.name: check for check in doctor.examine("s3://me:secret@bucket/workspace")}
    assert checks["workspace"].found.startswith("s3://bucket/workspace (not asked")
    assert "workspace disk" not in checks
    assert str(tmp_path) in checks["tracking store"].found


def test_the_table_names_the_remedy_and_ends_with_a_verdict() -> None:
    ok, bad = doctor.Check("cores", "ok", "2"), doctor.Check("disk", "fail", "full", "Free some.")
    assert doctor.render([ok, bad]).splitlines() == [
        "ok    cores  2",
        "fail  disk   full",
        "             -> Free some.",
        "",
        "1 to mend before a run, 0 to know about.",
    ]
    assert doctor.render([ok]).endswith("Ready.")


def test_a_check_that_breaks_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: 1 / 0)
    checks = doctor.examine()
    assert [c.found for c in checks if c.name == "check-up"] == [
        "one check broke: ZeroDivisionError('division by zero')"
    ]
    assert len(checks) > 8


def test_old_python() -> None:
    assert doctor.python_version((3, 10)).state == "fail"
    assert doctor.python_version((3, 12)).state == "ok"


def test_packages_missing_and_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "sample-1.0.dist-info"
    info.mkdir()
    needs = ["numpy<1", "no-such-package>=2", "click>=1", 'absent>=1; extra == "dev"']
    lines = ["Metadata-Version: 2.1", "Name: sample", "Version: 1.0"]
    (info / "METADATA").write_text("\n".join(lines + [f"Requires-Dist: {n}" for n in needs]))
    monkeypatch.syspath_prepend(tmp_path)
    checks = list(services.packages("sample"))
    assert [check.state for check in checks] == ["fail", "fail"]
    assert "no-such-package missing" in checks[1].found
    assert checks[1].mend == 'pip install "no-such-package>=2"'
    assert next(services.packages("nothing-of-this-name")).state == "fail"


def test_a_package_that_hides_platform(tmp_path: Path) -> None:
    assert doctor.standard_platform(tmp_path).state == "ok"
    (tmp_path / "platform").mkdir()
    assert doctor.standard_platform(tmp_path).state == "ok"
    (tmp_path / "platform" / "__init__.py").write_text("")
    check = doctor.standard_platform(tmp_path)
    assert check.state == "fail"
    assert "Delete" in check.mend


def test_shared_memory_against_what_ray_wants() -> None:
    """What Ray wants is what a run asks it for, however much memory the machine has."""
    assert doctor.shared_memory(OBJECT_STORE_BYTES).state == "ok"
    small = doctor.shared_memory(OBJECT_STORE_BYTES // 2)
    assert small.state == "warn"
    assert "0.5 GiB free; a run here takes 1.0" in small.found
    assert "--shm-size=2g" in small.mend
    assert doctor.shared_memory(64 * 1024**2).state == "fail"
    assert doctor.shared_memory(None).state == "warn"


def test_gpus_and_their_driver() -> None:
    (good,) = doctor.gpus(SMI, "12.4")
    assert (good.state, good.found) == (
        "ok",
        "NVIDIA L4 23034 MiB (driver 570.86.15, CUDA up to 12.8)",
    )
    assert doctor.gpus(SMI, "13.0")[0].state == "fail"
    assert doctor.gpus(SMI, None)[0].state == "warn"
    assert doctor.gpus("", "12.8")[0].state == "warn"
    assert doctor.gpus(None, "12.8")[0].state == "ok"


def test_container_limits(tmp_path: Path) -> None:
    assert doctor._cgroup_memory(tmp_path) == (None, 0)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert doctor._cgroup_memory(tmp_path) == (None, 0)
    (tmp_path / "memory.max").write_text("1000\n")
    assert doctor._cgroup_memory(tmp_path) == (1000, 5)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert doctor._cgroup_cpus(tmp_path) == 1.5


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    assert doctor.writable("workspace", tmp_path / "new" / "er").state == "ok"
    (tmp_path / "file").write_text("")
    assert doctor.writable("workspace", tmp_path / "file").state == "fail"


def test_torch_is_not_imported_for_its_cuda_version() -> None:
    import torch

    assert services.torch_cuda() == torch.version.cuda


def test_ray_authentication(tmp_path: Path) -> None:
    def state(**environment: str) -> str:
        return services.ray_authentication(environment, tmp_path).state

    assert state() == "ok"
    assert state(RAY_AUTH_MODE="disabled") == "ok"
    assert state(RAY_AUTH_MODE="token") == "fail"
    assert state(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="x") == "ok"
    assert state(RAY_AUTH_MODE="kerberos") == "fail"
    assert state(RAY_ADDRESS="ray://head:10001") == "warn"
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    check = services.ray_authentication({"RAY_AUTH_MODE": "token"}, tmp_path)
    assert (check.state, check.mend) == ("warn", f"chmod 600 {token}")
    token.chmod(0o600)
    assert state(RAY_AUTH_MODE="token") == "ok"


def test_ray_pickle_switches() -> None:
    assert services.ray_pickle({}).state == "ok"
    check = services.ray_pickle({services.PICKLE_SWITCHES[1]: "1"})
    assert check.mend == f"unset {services.PICKLE_SWITCHES[1]}"


def test_ray_cluster_alive_gone_and_none(tmp_path: Path) -> None:
    assert services.ray_cluster({}, tmp_path).state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        (tmp_path / "ray_current_cluster").write_text(address)
        assert services.ray_cluster({}, tmp_path).found == f"answers at {address}"
        assert services.ray_cluster({"RAY_ADDRESS": f"ray://{address}"}, tmp_path).state == "ok"
    assert "is gone" in services.ray_cluster({}, tmp_path).found
    assert services.ray_cluster({"RAY_ADDRESS": address}, tmp_path).state == "fail"


def test_stored_weights(tmp_path: Path) -> None:
    assert "none" in services.encoder_weights(tmp_path).found
    (tmp_path / "resnet18").mkdir()
    (tmp_path / "resnet18" / "model.json").write_text("{}")
    assert services.encoder_weights(tmp_path).found == "stored: resnet18"


def test_a_server_behind_a_password_is_asked_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"3.17.2")

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        place = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s%40cret@{place}")
        (check,) = services.tracking(None)
        thread.join()
    assert (check.state, "cret" in check.found) == ("ok", False)
    assert asked == ["Basic " + base64.b64encode(b"me:s@cret").decode()]


def store_state(workspace: Path) -> tuple[str, str]:
    check = next(services.tracking(workspace))
    return check.state, check.found


def test_a_local_store(tmp_path: Path) -> None:
    assert store_state(tmp_path)[0] == "ok"
    file = tmp_path / "mlflow" / "mlflow.db"
    file.parent.mkdir()
    file.write_bytes(b"not a database, but long enough to be taken for one" * 20)
    assert store_state(tmp_path)[0] == "fail"
    file.unlink()
    store = sqlite3.connect(file)
    store.execute("CREATE TABLE runs (id)")
    store.commit()
    assert store_state(tmp_path) == ("ok", f"{file} with 0 runs")
    store.execute("BEGIN IMMEDIATE")
    assert "locked" in store_state(tmp_path)[1]
    store.close()


@pytest.fixture
def server() -> Iterator[tuple[str, list[int]]]:
    """An HTTP server that answers with whatever code the list holds."""
    codes = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(codes[0])
            self.end_headers()
            self.wfile.write(b"3.17.2" if self.path == "/version" else b"?")

        def log_message(self, *words: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}", codes
        made.shutdown()


def test_a_tracking_server(
    server: tuple[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, codes = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_state(tmp_path) == ("ok", f"{address} answers (MLflow 3.17.2)")
    codes[0] = 401
    check = next(services.tracking(tmp_path))
    assert "MLFLOW_TRACKING_USERNAME" in check.mend
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    check = next(services.tracking(tmp_path))
    assert check.state == "warn"
    assert "secret" not in check.found
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert store_state(tmp_path)[0] == "fail"


def test_records_that_wait(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "tracking" / "abc", "abc")
    journal.append("finish", run="x", status="FINISHED")
    journal.close()
    assert [check.found for check in services.tracking(tmp_path)][1:] == [
        "2 records wait in 1 journals"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert doctor.writable("workspace", tmp_path / "new").state == "fail"
