"""Lives are summed up against the bounds of their own stream."""

from llmagentos.benchmark.forgetting import summarise


def life(strategy: str, last: float, seed: int = 1) -> dict:
    return {
        "strategy": strategy, "family": "museum", "seed": seed, "lasting": [0, 1], "matrix": [[0, 0], [1, 0], [last, 1]],
        "unseen": [[0, 0], [0, 0], [0.5, 0.5]], "general": [0.9, 0.8], "base": [1.0, 0.7], "stale": 0.0, "update": 1.0,
        "seconds": [1.0, 2.0], "steps": [10, 20], "replay_bytes": 100,
    }  # fmt: skip


def test_the_gap_is_closed_between_the_bounds_of_the_same_stream():
    found = summarise([life("naive", -0.4), life("joint", 1.0), life("replay", 0.9)])
    assert found["validity"] == {}
    replay = found["methods"]["replay"]
    assert round(replay["gap_closed"]["mean"], 3) == round((0.95 - 0.3) / 0.7, 3)
    assert replay["general_change"]["mean"] == -0.1
    assert replay["seconds"]["mean"] == 3.0


def test_without_bounds_there_is_no_gap_and_a_weak_stream_is_named():
    assert "gap_closed" not in summarise([life("replay", 0.9)])["methods"]["replay"]
    found = summarise([life("naive", 0.9), life("joint", 1.0)])
    assert list(found["validity"]) == ["museum 1"]
