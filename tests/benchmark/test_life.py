"""The beginning of a life, for real: rows through import and cycle, and an exam after each stage."""

import pytest

from llmagentos.benchmark.life import live
from llmagentos.config import load_config


@pytest.mark.ray
def test_what_is_taught_is_learned_and_examined(ray_cluster: None):
    config = load_config(overrides=["update.max_steps=150", "update.min_steps=1", "update.sweep=[1.0]"], environment={})
    life = live(config, "replay", "shop", 1, scale=0.25, most=1)
    before, after = life["matrix"]
    assert before[0] < 0.2
    assert after[0] > before[0] + 0.3
    assert len(life["general"]) == len(life["base"]) == 2
    assert 0 < life["replay_bytes"] < 1e7
    assert len(life["drift"]["new"]) == 1
    assert all(life["steps"])
