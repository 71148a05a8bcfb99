"""The beginning of a life, for real: rows through import and cycle, and an exam after each stage."""

from pathlib import Path

import pytest

from llmagentos.benchmark.life import live, missed, suite_of
from llmagentos.config import load_config
from llmagentos.release.bootstrap import bootstrap
from llmagentos.scenarios.question import Question


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
    assert {m["suite"] for m in life["missed"]} <= {"exam 0", "unseen 0"}
    assert life["skills"].keys() == {"knowledge"}
    assert life["skills"]["knowledge"] == pytest.approx(life["unseen"][1][0])


def test_what_is_missed_stands_there_word_for_word(tmp_path: Path):
    config = load_config(overrides=[f"storage.root={tmp_path}", "registry.enabled=false"], environment={})
    bootstrap(config)
    told = ({"role": "user", "content": "I mean the Zorba key."}, {"role": "assistant", "content": "Yes?"})
    asked = Question("Who keeps it?", "Nobody but Ysolde.", "facts", before=told)
    (wrong,) = missed(config, [suite_of("exam 0", [asked])])
    said = "I mean the Zorba key. / Yes? / Who keeps it?"
    assert (wrong["suite"], wrong["asked"], wrong["wanted"]) == ("exam 0", said, "Nobody but Ysolde.")
    assert wrong["said"] not in ("", wrong["wanted"])
