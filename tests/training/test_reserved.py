"""Asking a model here, or in a task that holds what it was told to reserve."""

import os

import pytest

from llmagentos.core.errors import IntegrityError
from llmagentos.training.reserved import reserved


def where(say: str, *, device: str) -> tuple[str, str, int, list[str]]:
    import ray

    held = ray.get_runtime_context().get_accelerator_ids()["GPU"] if ray.is_initialized() else []
    return say, device, os.getpid(), held


def refuse(*, device: str) -> None:
    raise IntegrityError("weights are not as they were written.", hint="Look.")


def test_without_gpus_it_runs_here_on_the_cpu():
    assert reserved(0, where, "hi")[:3] == ("hi", "cpu", os.getpid())


@pytest.mark.ray
def test_a_task_holds_the_gpu_as_long_as_it_takes(ray_cluster: None):
    said, _, process, held = reserved(1, where, say="hi")
    assert said == "hi"
    assert process != os.getpid()
    assert len(held) == 1
    assert reserved(1, where, "again")[0] == "again"  # given back


@pytest.mark.ray
def test_what_it_raises_is_raised_here(ray_cluster: None):
    with pytest.raises(IntegrityError, match="as they were written") as caught:
        reserved(1, refuse)
    assert type(caught.value) is IntegrityError
    assert caught.value.hint == "Look."
