import socket

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError
from llmagentos.local import processes, ray
from llmagentos.local.processes import Processes, Started
from llmagentos.storage.layout import Home


@pytest.fixture
def settings(tmp_path):
    return lambda *overrides: load_config(None, [f"storage.root={tmp_path}", *overrides], environment={})


def test_a_cluster_that_happens_to_be_there_is_not_joined(settings, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ray.address(settings()) == "local"


def test_a_submitted_job_stays_in_its_cluster(settings, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert ray.address(settings("local.ray_address=10.0.0.2:6379")) == "10.0.0.1:6379"


def test_the_configured_address_comes_before_the_home(settings):
    assert ray.address(settings("local.ray_address=10.0.0.2:6379")) == "10.0.0.2:6379"


def test_the_home_is_used_while_its_ray_lives(settings):
    import os

    config = settings()
    me = processes.describe("ray", os.getpid())
    home = Home(config.storage.root).open()
    processes.write(home, Processes(processes=[me], addresses={"ray": "127.0.0.2:4"}))
    assert ray.address(config) == "127.0.0.2:4"
    gone = Started(name="ray", pid=me.pid, born=me.born - 500)
    processes.write(home, Processes(processes=[gone], addresses={"ray": "127.0.0.2:4"}))
    assert ray.address(config) == "local"


def test_an_address_where_nothing_answers_is_a_clear_error(settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        ray._start(settings(), f"127.0.0.1:{port}")


@pytest.mark.ray
def test_a_connection_that_was_there_before_stays(settings, ray_cluster):
    import ray as core

    with ray.connect(settings()) as where:
        assert where
    assert core.is_initialized()
