"""Benchmarks are found by name and refuse what they do not know."""

import importlib
import inspect
import os
import signal

import pytest

from llmagentos.benchmark.catalogue import BENCHMARKS, measure, parse_options
from llmagentos.core.errors import ConfigError, NotFoundError


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_has_a_run_with_a_configuration_first(name: str):
    run = importlib.import_module(f"llmagentos.benchmark.{name}").run
    assert next(iter(inspect.signature(run).parameters)) == "config"


def test_options_are_yaml_and_commas_make_lists():
    assert parse_options(["seeds=1,2", "scale=0.5", "families=shop,", "readme=README.md"]) == {
        "seeds": [1, 2], "scale": 0.5, "families": ["shop"], "readme": "README.md",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="seeds"):
        parse_options(["seeds"])


def test_what_is_not_known_is_named(config):
    with pytest.raises(NotFoundError, match="nosuch"):
        measure(config, "nosuch", [], print)
    with pytest.raises(ConfigError, match="colour"):
        measure(config, "forgetting", ["colour=red"], print)
    with pytest.raises(ConfigError, match="say"):
        measure(config, "forgetting", ["say=1"], print)


def test_one_of_several_is_several_too(config, monkeypatch):
    from llmagentos.benchmark import forgetting

    asked = {}

    def run(config, *, families=("a", "b"), scale=1.0):
        asked.update(families=families, scale=scale)
        return {}

    monkeypatch.setattr(forgetting, "run", run)
    measure(config, "forgetting", ["families=museum", "scale=2"], print)
    assert asked == {"families": ["museum"], "scale": 2}


def test_a_benchmark_that_is_asked_to_end_ends_what_it_started(config, monkeypatch):
    from llmagentos.benchmark import forgetting

    ended = []

    def run(config):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            ended.append(True)

    monkeypatch.setattr(forgetting, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        measure(config, "forgetting", [], print)
    assert (left.value.code, ended, signal.getsignal(signal.SIGTERM)) == (143, [True], before)
