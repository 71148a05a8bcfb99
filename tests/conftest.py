"""What every test stands on: pinned threads, no telemetry, a home of its own, one local Ray for the session."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from llmagentos.config import Config, load_config
from llmagentos.storage.layout import Home

# Here and not in a fixture: heavy libraries read these once, when a test module imports them.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
# A test never meets the home, the key or the cluster of whoever runs it.
for _name in ("LLMAGENTOS_HOME", "LLMAGENTOS_API_KEY", "RAY_ADDRESS"):
    os.environ.pop(_name, None)

# No deadline and no complaint about slow generation: a busy machine is no failure.
settings.register_profile("house", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutants", type=int, default=150, help="generated bad requests for each HTTP route")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What `make test` looks for: code under test that ends the process would else end it with the status of success."""
    cache = getattr(session.config, "cache", None)  # pytest may be told to keep none
    if cache:
        cache.set("llmagentos/finished", session.testscollected)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole session."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=1,  # a number that tasks can reserve; nobody looks whether it is there
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    yield
    ray.shutdown()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Default settings in a root of the test's own."""
    return load_config(overrides=[f"storage.root={tmp_path / 'home'}"], environment={})


@pytest.fixture
def home(config: Config) -> Home:
    """The opened root of `config`."""
    return Home(config.storage.root).open()


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    """A test that leaves another root or cluster behind would send the next one astray."""
    names = ("LLMAGENTOS_HOME", "LLMAGENTOS_API_KEY", "RAY_ADDRESS")
    before = {name: os.environ.get(name) for name in names}
    yield
    assert {name: os.environ.get(name) for name in names} == before
