"""What went wrong on a worker, said as it was said there.

Ray hands a driver its own exception with the worker's traceback as text, and the error itself is
lost on the way. A person needs one sentence, which holds what to do next; the traceback stays
behind it as the cause, for `--verbose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError

_OURS = re.compile(r"^chexseg_platform\.[\w.]+: (.+)$", re.MULTILINE)
_SYSTEM = re.compile(r"^((?:OSError|PermissionError|FileNotFoundError): .+)$", re.MULTILINE)
_ANY = re.compile(r"^((?:[\w]+\.)*\w*(?:Error|Exception|Interrupt): .+)$", re.MULTILINE)
_RAY = re.compile(r"^ray\.|UserCodeException|RayTaskError")

AGAIN = "What is finished is kept: the same command continues."
_PLAIN = (
    # What the text holds, and what a person is told.
    (
        r"CUDA out of memory|CUDA error: out of memory",
        "a worker ran out of GPU memory: lower batch_size, or resources.saliency_batch",
    ),
    (
        r"\bOutOfMemory|MemoryError\b|due to (?:the )?memory pressure|\bOOM\b",
        "a worker ran out of memory: give resources fewer workers (saliency_workers, "
        "parallel_trainings), lower batch sizes, or close other programs",
    ),
    (
        # An error in an actor's constructor is told as its death, too.
        r"(?s)^(?!.*creation task).*(RayActorError|ActorDied|ActorUnavailable|WorkerCrashed|"
        r"worker died|NodeDied|OwnerDied|ObjectLost)",
        "a worker process ended without a word, as one does that the system kills for its memory "
        "or whose machine is gone: look at free memory, and try fewer workers",
    ),
    (
        r"RaySystemError|GetTimeout|LocalRayletDied|RpcError",
        "the Ray cluster does not answer any more: look whether it runs (`ray status`)",
    ),
)


class WorkerFailed(ValueError):
    """A worker failed; the message is the worker's own where it has one for a person."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise every error of a worker as WorkerFailed, in one sentence."""
    try:
        yield
    except RayError as error:
        raise WorkerFailed(sentence(error)) from error


def sentence(error: BaseException) -> str:
    """Return what a person is told of Ray's error, whose text holds the worker's traceback."""
    text, name = str(error), type(error).__name__
    said = _OURS.search(text) or _SYSTEM.search(text)
    if said is not None:
        return said[1].strip()
    known = plain(f"{name}: {text}")
    if known is not None:
        return known
    found = [match[1] for match in _ANY.finditer(text) if not _RAY.search(match[1])]
    what = found[0].strip() if found else f"{name}: {text}".splitlines()[0]
    return (
        f"a worker failed with {what} (a fault of the program: "
        "`chexseg-platform --verbose ...` shows where)"
    )


def plain(text: str) -> str | None:
    """Return what to do about an error of the system below that Ray tells of, if it is one."""
    for pattern, said in _PLAIN:
        if re.search(pattern, text):
            return f"{said}. {AGAIN}"
    return None


def rows_of(dataset: Any) -> Iterator[dict[str, Any]]:
    """Stream a Ray Data pipeline's rows as they are made.

    Raises:
        WorkerFailed: where a task or an actor failed.
    """
    with plain_errors():
        yield from dataset.iter_rows()
