"""A pool of actors on Ray Data that is gone when its work is, whatever happens.

Ray Data lets go of a failed run's actors and does not kill them: one that was still starting, or
that anything still refers to, would live on and keep its CPUs, and the next stage would wait for
them in vain. So every actor signs a roll as it starts; who is on it is killed in the end, and who
comes late is turned away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.data
from numpy.typing import NDArray
from ray.exceptions import RayError

from chexseg_platform.cluster import here
from chexseg_platform.stages.errors import rows_of

Batch = dict[str, NDArray[Any]]
CLOSING_SECONDS = 10.0
"""For an answer that takes a millisecond; the machine may be busy."""


@ray.remote(num_cpus=0)
class Roll:
    """Who works in a pool."""

    def __init__(self) -> None:
        self._signed: list[Any] | None = []

    def sign(self, worker: Any) -> bool:
        """Note a worker; False once the pool is closed."""
        if self._signed is None:
            return False
        self._signed.append(worker)
        return True

    def close(self) -> list[Any]:
        """Return who has signed; nobody may any more."""
        signed, self._signed = self._signed, None
        return signed or []


class PoolWorker:
    """What runs in an actor: signs, then makes and calls what does the work."""

    def __init__(self, roll: Any, make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        if not ray.get(roll.sign.remote(ray.get_runtime_context().current_actor)):
            raise RuntimeError("the pool is closed")
        self._work = make(**arguments)

    def __call__(self, batch: Batch) -> Batch:
        answer: Batch = self._work(batch)
        return answer


def pooled(
    items: Sequence[Mapping[str, Any]],
    make: Callable[..., Callable[[Batch], Batch]],
    arguments: Mapping[str, Any],
    *,
    workers: int,
    cpus: float,
    gpus: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Run items one by one through a pool of actors; yield the rows as they are made.

    Args:
        items: a row each.
        make: called once an actor with `arguments`; what it returns is called with every batch, of
            one row.
        workers: how many actors at the most.
        cpus, gpus: of each.

    Raises:
        WorkerFailed: where an actor failed.
    """
    if not items:
        return
    roll = Roll.options(scheduling_strategy=here()).remote()  # type: ignore[attr-defined]
    ds: Any = ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items))
    ds = ds.map_batches(
        PoolWorker,
        fn_constructor_args=(roll, make, dict(arguments)),
        batch_size=1,
        num_cpus=cpus,
        num_gpus=gpus or None,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,  # enough to go on with, on a cluster that has lost nodes
            max_size=workers,
            initial_size=workers,
            max_tasks_in_flight_per_actor=2,  # more would wait for one while another is idle
        ),
    )
    try:
        yield from rows_of(ds)
    finally:
        _dismiss(roll)


def _dismiss(roll: Any) -> None:
    """Kill who works in the pool.

    Ray may be gone itself: whoever ends a process group ends the services of a private Ray with
    the driver, which would wait for them for a minute and then be aborted.
    """
    try:
        signed = ray.get(roll.close.remote(), timeout=CLOSING_SECONDS)
    except RayError:
        return
    for worker in signed:
        ray.kill(worker)
    # Late ones find no roll to sign, which ends them as well.
    ray.kill(roll)
