"""The benchmark's own arithmetic, and once the whole of it in small."""

import random

import pytest

from llmagentos.benchmark import preference
from llmagentos.benchmark.preference import run
from llmagentos.update.reinforce import Reinforcement


def test_points_are_of_the_behaviour_and_losses_of_everything_else():
    before = {"liked": 0.5, "disliked": 0.5, "liked_sampled": 0.5, "shop": 1.0, "general": 0.9}
    after = {"liked": 0.75, "disliked": 0.2, "liked_sampled": 0.7, "shop": 0.99, "general": 0.95}
    assert preference._moved(before, after) == {"points": 25.0, "lost": {"shop": 1.0, "general": -5.0}}


def test_a_row_of_the_log_goes_through_the_chain():
    question = preference.returns(["Bichear"])[0]
    labelled = preference.label(preference._row(0, question, question.reply("Hm"), False))
    assert labelled["judged"] == {"label": "disliked", "weight": 1.0}
    assert preference.thumb(question, question.reply(), random.Random(0), up=1, down=1) is True


@pytest.mark.slow
def test_the_whole_of_it_in_small(config, monkeypatch):
    monkeypatch.setattr(preference, "_TAUGHT_STEPS", 120)
    monkeypatch.setattr(preference, "LOG", 120)
    monkeypatch.setattr(preference, "_KEPT", 200)
    short = config.model_copy(
        update={"update": config.update.model_copy(update={"min_steps": 1, "max_steps": 2, "min_epochs": 0.1})}
    )
    found = run(short, settings=Reinforcement(rounds=1, tasks=4, group=4))
    assert set(found["kto"]["after"]) == {"every thumb", "dislikes alone", "likes alone"}
    assert found["kto"]["likes"] > 0 < found["kto"]["dislikes"]
    assert 0.2 < found["kto"]["negative_share"] < 0.4
    assert len(found["grpo"]["rounds"]) == 1
