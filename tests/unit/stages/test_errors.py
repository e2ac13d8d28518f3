"""Workers' errors in one sentence: their own words, or what to do about Ray's."""

import pytest
from chexseg_platform.stages.errors import AGAIN, WorkerFailed, plain, plain_errors
from chexseg_platform.stages.training import root_cause
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, WorkerCrashedError

WRAPPED = """\x1b[36mray::MapBatches(write_shards)()\x1b[39m (pid=1, ip=127.0.0.1)
  File "artifacts.py", line 160, in read_part
    raise CorruptArtifact(
{error}

The above exception was the direct cause of the following exception:

ray.exceptions.UserCodeException: UDF failed to process a data block."""


def said_of(error: Exception) -> str:
    with pytest.raises(WorkerFailed) as failed, plain_errors():
        raise error
    assert failed.value.__cause__ is error
    assert "\n" not in str(failed.value)
    return str(failed.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "chexseg_platform.artifacts.CorruptArtifact: a.parquet is damaged.",
            "a.parquet is damaged.",
        ),
        (
            "OSError: [Errno 28] No space left on device",
            "OSError: [Errno 28] No space left on device",
        ),
    ],
)
def test_what_a_person_can_mend_is_one_sentence(error: str, said: str) -> None:
    assert said_of(RayError(WRAPPED.format(error=error))) == said


def test_a_fault_of_the_program_is_one_sentence_too() -> None:
    said = said_of(RayError(WRAPPED.format(error="IndexError: list index out of range")))
    assert said.startswith("a worker failed with IndexError: list index out of range (a fault of")
    assert "--verbose" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "fewer"),
        (ActorDiedError(), "a worker process ended"),
        (WorkerCrashedError(), "a worker process ended"),
        (RayError(WRAPPED.format(error="MemoryError")), "a worker ran out of memory"),
        (
            RayError(WRAPPED.format(error="torch.OutOfMemoryError: CUDA out of memory. Tried")),
            "lower batch_size",
        ),
    ],
)
def test_what_the_system_did_to_a_worker_has_a_remedy(error: Exception, words: str) -> None:
    said = said_of(error)
    assert words in said
    assert said.endswith(AGAIN)


def test_the_cause_of_a_failed_training_is_one_sentence() -> None:
    assert root_cause(KeyError("x\ny")) == "KeyError: 'x\\ny'"
    assert root_cause(RuntimeError("one\ntwo")) == "RuntimeError: one"
    wrapper = RuntimeError("outer")
    wrapper.__cause__ = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nof 3")
    assert root_cause(wrapper) == plain("CUDA out of memory")


def test_errors_of_the_driver_pass() -> None:
    with pytest.raises(ValueError, match="mine"), plain_errors():
        raise ValueError("mine")
