"""Is this machine fit for a run? A list of checks, each with what to do about it.

Nothing heavy is imported: versions come from package metadata, liveness from sockets, GPUs from
`nvidia-smi`, so the answer takes a second or two and comes even where torch or Ray are broken,
which is when it is wanted. The checks of the machine are here, those of Ray, MLflow and the
packages in `doctor_services.py`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import psutil

from chexseg_platform.config import OBJECT_STORE_BYTES

State = Literal["ok", "warn", "fail"]
GIB = 1024**3
NEEDED_PYTHON = (3, 11)


@dataclass(frozen=True)
class Check:
    """One thing looked at: `found` says how it is, `mend` what to do (empty when all is well)."""

    name: str
    state: State
    found: str
    mend: str = ""


def examine(workspace: str | Path | None = None) -> list[Check]:
    """All checks of this machine and, when given, of a workspace. Takes under three seconds.

    A check that breaks is itself reported as a warning; nothing is raised.
    """
    from chexseg_platform import doctor_services as services
    from chexseg_platform.data.store import cache_folder
    from chexseg_platform.tracking.stores import tracking_folder

    tracked = None if workspace is None else tracking_folder(workspace)
    checks: list[Callable[[], Iterable[Check]]] = [
        lambda: [python_version()],
        services.packages,
        lambda: [standard_platform(Path.cwd())],
        lambda: [processors()],
        lambda: [memory()],
        lambda: [shared_memory(_shared_memory())],
        lambda: gpus(_nvidia_smi(), services.torch_cuda()),
        lambda: [disk("Ray's temporary folder", ray_folder(), warn_below=0.05)],
        lambda: [services.ray_authentication(os.environ, Path.home())],
        lambda: [services.ray_pickle(os.environ)],
        lambda: [services.ray_cluster(os.environ, ray_folder())],
        lambda: [services.encoder_weights(cache_folder(None) / "weights")],
        lambda: services.tracking(tracked),
    ]
    if workspace is not None:
        place = workspace
        checks.insert(8, lambda: workspace_checks(place))
    return [check for group in checks for check in _safely(group)]


def render(checks: list[Check]) -> str:
    """The checks as a table, what is wrong with its remedy below it, and a sentence at the end."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<4}  {check.name:<{width}}  {check.found}")
        if check.mend:
            lines.append(f"{'':<4}  {'':<{width}}  -> {check.mend}")
    return "\n".join([*lines, "", _verdict(checks)])


def python_version(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Python is new enough."""
    found = ".".join(map(str, version))
    if version >= NEEDED_PYTHON:
        return Check("Python", "ok", found)
    return Check("Python", "fail", found, "Make the virtual environment with Python 3.11 or later.")


def standard_platform(folder: Path) -> Check:
    """`import platform` is Python's own: a `platform/__init__.py` would break Ray's workers."""
    name = "import platform"
    shadow = folder / "platform" / "__init__.py"
    if shadow.exists():
        return Check(name, "fail", f"{shadow} hides Python's own module", f"Delete {shadow}.")
    import platform

    if not hasattr(platform, "system"):
        return Check(name, "fail", f"is {platform}", "Remove that folder from PYTHONPATH.")
    return Check(name, "ok", "is Python's own")


def processors() -> Check:
    """Cores this process may use, by affinity and by the container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = float(allowed or 1)
    quota = _cgroup_cpus()
    if quota is not None and quota < cores:
        found = f"{quota:g} by the container's quota, {cores:g} visible"
        mend = "Give the container a cpuset, or fewer workers: threads will wait for one another."
        return Check("cores", "warn", found, mend)
    return Check("cores", "ok", f"{cores:g}")


def memory() -> Check:
    """Memory that is free, within the container's limit."""
    free, total = _memory()
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < 2 * GIB:
        return Check("memory", "fail", found, "Ray alone takes 1 GiB: end other programs first.")
    if free < 4 * GIB:
        return Check("memory", "warn", found, "Enough for the demo only; use fewer workers.")
    return Check("memory", "ok", found)


def shared_memory(free: int | None) -> Check:
    """`/dev/shm` holds Ray's object store; with too little of it Ray falls back to the disk."""
    wanted = OBJECT_STORE_BYTES
    if free is None:
        return Check("shared memory", "warn", "no /dev/shm", "Ray will use the disk instead.")
    found = f"{free / GIB:.1f} GiB free; a run here takes {wanted / GIB:.1f}"
    if free >= wanted:
        return Check("shared memory", "ok", found)
    mend = f"In a container: docker run --shm-size={wanted / GIB + 1:.0f}g; else clear /dev/shm."
    return Check("shared memory", "fail" if free < 0.1 * GIB else "warn", found, mend)


def gpus(report: str | None, torch_cuda: str | None) -> list[Check]:
    """GPUs and driver, against the CUDA that torch was built for.

    Args:
        report: what `nvidia-smi -q -x` prints, or None without that program.
        torch_cuda: such as "12.8", or None for a torch without CUDA.
    """
    if report is None:
        found = "none" if torch_cuda is None else f"none; torch is built for CUDA {torch_cuda}"
        return [Check("GPUs", "ok", found + " (everything runs on the CPU)")]
    try:
        tree = ElementTree.fromstring(report)
    except ElementTree.ParseError:
        return [Check("GPUs", "warn", "nvidia-smi does not answer", "Reload the NVIDIA driver.")]
    names = [_gpu(node) for node in tree.iter("gpu")]
    driver, newest = tree.findtext("driver_version"), tree.findtext("cuda_version")
    found = f"{', '.join(names) or 'none'} (driver {driver}, CUDA up to {newest})"
    return [Check("GPUs", *_cuda_verdict(found, newest, torch_cuda))]


def disk(name: str, folder: Path, warn_below: float = 0.0) -> Check:
    """Room on a folder's disk: 1 GiB at the least, 5 GiB or a share of the disk to be at ease."""
    usage = shutil.disk_usage(_existing(folder))
    found = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.0f} at {folder}"
    if usage.free < GIB:
        return Check(name, "fail", found, "Free some space, or choose another folder.")
    if usage.free < 5 * GIB or usage.free < warn_below * usage.total:
        return Check(name, "warn", found, "Little room: Ray stops spilling on a nearly full disk.")
    return Check(name, "ok", found)


def writable(name: str, folder: Path) -> Check:
    """The folder, or the nearest one above it that exists, can be written."""
    place = _existing(folder)
    if not place.is_dir():
        return Check(name, "fail", f"{place} is a file", "Choose another --workspace.")
    if os.access(place, os.W_OK | os.X_OK):
        return Check(name, "ok", str(folder.absolute()))
    return Check(name, "fail", f"{place} cannot be written", "Choose another --workspace.")


def workspace_checks(workspace: str | Path) -> list[Check]:
    """A workspace can be written and has room; one elsewhere is named, for asking takes long."""
    from chexseg_platform.tracking.stores import is_remote, shown, tracking_folder

    if is_remote(workspace):
        found = f"{shown(str(workspace))} (not asked: `chexseg-platform check` writes there)"
        return [Check("workspace", "ok", found)]
    place = tracking_folder(workspace)
    return [writable("workspace", place), disk("workspace disk", place)]


def ray_folder() -> Path:
    """Where Ray keeps sessions and spilled objects."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray"


def _safely(group: Callable[[], Iterable[Check]]) -> list[Check]:
    try:
        return list(group())
    except Exception as error:  # a check-up that falls over helps nobody
        return [Check("check-up", "warn", f"one check broke: {error!r}", "Please report this.")]


def _verdict(checks: list[Check]) -> str:
    fails = sum(check.state == "fail" for check in checks)
    warns = sum(check.state == "warn" for check in checks)
    if fails:
        return f"{fails} to mend before a run, {warns} to know about."
    return f"Ready; {warns} to know about." if warns else "Ready."


def _cuda_verdict(found: str, newest: str | None, torch_cuda: str | None) -> tuple[State, str, str]:
    if torch_cuda is None:
        return "warn", found, "torch here has no CUDA: install a CUDA build to use the GPUs."
    try:
        major = int((newest or "").split(".")[0])
    except ValueError:
        return "warn", found, "nvidia-smi names no CUDA version: check the driver."
    # Within a major version, older drivers run newer builds.
    if major < int(torch_cuda.split(".")[0]):
        mend = f"torch is built for CUDA {torch_cuda}: update the driver, or change the build."
        return "fail", found, mend
    return "ok", found, ""


def _gpu(node: ElementTree.Element) -> str:
    return f"{node.findtext('product_name')} {node.findtext('fb_memory_usage/total')}"


def _nvidia_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-q", "-x"], capture_output=True, text=True, timeout=2)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _existing(folder: Path) -> Path:
    place = folder.absolute()
    return next(path for path in (place, *place.parents) if path.exists())


def _memory() -> tuple[int, int]:
    """Free and total bytes: the machine's, or the container's where that is less."""
    machine = psutil.virtual_memory()
    limit, used = _cgroup_memory(Path("/sys/fs/cgroup"))
    if limit is None or limit > machine.total:
        return machine.available, machine.total
    return min(machine.available, limit - used), limit


def _cgroup_memory(root: Path) -> tuple[int | None, int]:
    """Limit (None: no limit) and use in bytes, by cgroup version 2, then 1."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return int((root / limit).read_text()), int((root / used).read_text())
        except (OSError, ValueError):  # ValueError: "max"
            continue
    return None, 0


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _shared_memory() -> int | None:
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else None
