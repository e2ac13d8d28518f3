"""The check-up of what runs on the machine: packages, Ray, the tracking store, stored weights.

Imports neither Ray, MLflow nor torch (see `doctor.py`). Environment and home are arguments, so a
test can hand in its own.
"""

import ast
import base64
import importlib.metadata
import importlib.util
import socket
import sqlite3
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from packaging.requirements import Requirement

from chexseg_platform.doctor import Check, writable
from chexseg_platform.tracking.stores import is_server, shown, store_uri

TIMEOUT = 1.0
RAY_PORT = 6379
# Each lets Ray Data unpickle what a Parquet file carries: a foreign file then runs code.
PICKLE_SWITCHES = (
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
)


def packages(distribution: str = "chexseg-platform") -> Iterator[Check]:
    """Each needed package is there in a version that will do: one line, and one per fault."""
    try:
        needs = [Requirement(line) for line in importlib.metadata.requires(distribution) or []]
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "fail", f"{distribution} is not installed", "pip install .")
        return
    needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    faults = [(need, version) for need in needs if (version := _fault(need)) is not None]
    for need, version in faults:
        wanted = f"{need.name}{need.specifier}"
        mend = f'pip install "{wanted}"'
        yield Check("packages", "fail", f"{need.name} {version}, needed: {need.specifier}", mend)
    if not faults:
        main = [f"{name} {_version(name)}" for name in ("ray", "torch", "mlflow", "pyarrow")]
        yield Check("packages", "ok", f"{len(needs)} as needed ({', '.join(main)})")


def torch_cuda() -> str | None:
    """The CUDA version torch was built for, read from its version file without importing it."""
    spec = importlib.util.find_spec("torch")
    places = spec.submodule_search_locations if spec else None
    file = Path(next(iter(places))) / "version.py" if places else None
    if file is None or not file.is_file():
        return None
    for node in ast.parse(file.read_text()).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign):
            target = node.targets[0] if isinstance(node.targets[0], ast.Name) else None
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "cuda" and isinstance(value, ast.Constant):
            return value.value if isinstance(value.value, str) else None
    return None


def ray_authentication(environment: Mapping[str, str], home: Path) -> Check:
    """Ray's token authentication is decided, and its token is nobody else's to read."""
    name = "Ray authentication"
    mode = environment.get("RAY_AUTH_MODE")
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    if mode == "disabled":
        return Check(name, "ok", "off (RAY_AUTH_MODE=disabled): fine on loopback, never elsewhere")
    if mode not in (None, "token"):
        return Check(name, "fail", f"RAY_AUTH_MODE={mode}", "Set it to token or disabled.")
    if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o077:
        return Check(name, "warn", f"others can read {file}", f"chmod 600 {file}")
    if mode == "token" and not (file.is_file() or environment.get("RAY_AUTH_TOKEN")):
        mend = "Run: ray get-auth-token --generate, or set RAY_AUTH_TOKEN_PATH."
        return Check(name, "fail", f"RAY_AUTH_MODE=token, and no token at {file}", mend)
    if mode is None and "RAY_ADDRESS" in environment:
        mend = "A cluster refuses clients that do not say: export RAY_AUTH_MODE=token."
        return Check(name, "warn", "RAY_ADDRESS is set and RAY_AUTH_MODE is not", mend)
    return Check(name, "ok", "by token" if mode else "not set: Ray makes a token for its own use")


def ray_pickle(environment: Mapping[str, str]) -> Check:
    """None of Ray Data's switches that unpickle file content is on."""
    on = [name for name in PICKLE_SWITCHES if environment.get(name, "0").lower() in ("1", "true")]
    if not on:
        return Check("Ray Data pickles", "ok", "off")
    return Check("Ray Data pickles", "fail", f"{', '.join(on)} on", f"unset {' '.join(on)}")


def ray_cluster(environment: Mapping[str, str], folder: Path) -> Check:
    """The cluster that `ray.init` would join answers."""
    name = "Ray cluster"
    address = environment.get("RAY_ADDRESS") or _current_cluster(folder)
    if not address or address in ("auto", "local"):
        return Check(name, "ok", "none running: each command starts its own on this machine")
    if _answers(address, RAY_PORT):
        return Check(name, "ok", f"answers at {address}")
    if "RAY_ADDRESS" in environment:
        mend = "Start it, correct RAY_ADDRESS, or unset it to use this machine."
        return Check(name, "fail", f"nothing answers at RAY_ADDRESS={address}", mend)
    found = f"none running (the last one, {address}, is gone)"
    return Check(name, "ok", found)


def tracking(folder: Path | None) -> Iterator[Check]:
    """The store of runs answers or can be written; records in a folder that wait to be sent."""
    try:
        uri = store_uri(folder or Path("workspace"))
    except ValueError as error:
        yield Check("tracking store", "fail", str(error), "unset MLFLOW_TRACKING_URI")
        return
    if is_server(uri):
        yield _server(uri)
    elif uri.startswith("sqlite:///"):
        yield _sqlite(Path(urlsplit(uri).path[1:]))
    else:
        yield Check("tracking store", "ok", f"{shown(uri)} (not asked)")
    if folder is not None:
        yield from _waiting(folder, uri)


def encoder_weights(folder: Path) -> Check:
    """ImageNet weights of encoders that `fetch-weights` left in a folder."""
    from chexseg_platform.models.first_weights import META

    names = sorted(path.parent.name for path in folder.glob(f"*/{META}"))
    if names:
        return Check("encoder weights", "ok", f"stored: {', '.join(names)}")
    found = f"none in {folder} (needed only for weights: imagenet)"
    return Check("encoder weights", "ok", found)


def _fault(need: Requirement) -> str | None:
    version = _version(need.name)
    return None if need.specifier.contains(version, prereleases=True) else version


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _current_cluster(folder: Path) -> str | None:
    try:
        return (folder / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def _answers(address: str, port: int) -> bool:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or port), TIMEOUT).close()
    except (OSError, ValueError):
        return False
    return True


def _request(uri: str) -> urllib.request.Request:
    """A request to an address that may hold a user's name and password."""
    parts = urlsplit(uri)
    who, _, place = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=place)))
    if who:
        token = base64.b64encode(unquote(who).encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    return request


def _server(uri: str) -> Check:
    name, place = "tracking store", shown(uri)
    mend = "Start it or correct MLFLOW_TRACKING_URI; runs go on meanwhile and send later."
    try:
        request = _request(f"{uri.rstrip('/')}/version")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return Check(name, "ok", f"{place} answers (MLflow {answer.read(40).decode()})")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            mend = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token."
        return Check(name, "warn", f"{place} answers {error.code}", mend)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Check(name, "warn", f"{place} does not answer ({reason})", mend)


def _sqlite(file: Path) -> Check:
    name = "tracking store"
    if not file.exists():
        place = writable(name, file.parent)
        return Check(name, place.state, f"{file} will be made", place.mend)
    try:
        address = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=TIMEOUT)) as store:
            count = store.execute("SELECT count(*) FROM runs").fetchone()[0]
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
    except sqlite3.Error as error:
        mend = "If it is broken, move it away: the next run of an experiment fills a new one."
        return Check(name, "fail", f"{file}: {error}", mend)
    return Check(name, "ok", f"{file} with {count} runs")


def _waiting(folder: Path, uri: str) -> Iterator[Check]:
    from chexseg_platform.tracking.journal import waiting

    left = {path.name: waiting(path, uri) for path in sorted((folder / "tracking").glob("*/"))}
    left = {name: count for name, count in left.items() if count}
    if left:
        found = f"{sum(left.values())} records wait in {len(left)} journals"
        mend = "They are sent when their experiment runs again, once the store answers."
        yield Check("tracking journal", "warn", found, mend)
