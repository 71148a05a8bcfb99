"""Lives are summed up against the bounds of their own stream."""

from concurrent.futures import Future
from pathlib import Path

import pytest

from llmagentos.benchmark import forgetting
from llmagentos.benchmark.forgetting import ABLATIONS, summarise
from llmagentos.config import Config
from llmagentos.core.errors import ConfigError


def life(strategy: str, last: float, seed: int = 1) -> dict:
    return {
        "strategy": strategy, "family": "museum", "seed": seed, "lasting": [0, 1], "matrix": [[0, 0], [1, 0], [last, 1]],
        "unseen": [[0, 0], [0, 0], [0.5, 0.5]], "general": [0.9, 0.8], "base": [1.0, 0.7], "stale": 0.0, "update": 1.0,
        "seconds": [1.0, 2.0], "steps": [10, 20], "replay_bytes": 100,
        "drift": {"new": [3.0, 2.0], "old": [0.1]}, "skills": {"fact": 0.5, "talk": 0.25},
    }  # fmt: skip


def test_the_gap_is_closed_between_the_bounds_of_the_same_stream():
    found = summarise([life("naive", -0.4), life("joint", 1.0), life("replay", 0.9)])
    assert found["validity"] == {}
    replay = found["methods"]["replay"]
    assert round(replay["gap_closed"]["mean"], 3) == round((0.95 - 0.3) / 0.7, 3)
    assert replay["general_change"]["mean"] == -0.1
    assert replay["seconds"]["mean"] == 3.0
    assert replay["unseen/talk"]["mean"] == 0.25
    assert (replay["drift_new"]["mean"], replay["drift_old"]["mean"]) == (2.5, 0.1)


def test_without_bounds_there_is_no_gap_and_a_weak_stream_is_named():
    assert "gap_closed" not in summarise([life("replay", 0.9)])["methods"]["replay"]
    found = summarise([life("naive", 0.9), life("joint", 1.0)])
    assert list(found["validity"]) == ["museum 1"]


@pytest.mark.parametrize(("option", "value", "known"), [("strategies", "replai", "replay"), ("families", "librarry", "library")])
def test_a_name_that_is_not_known_is_said_before_anything_is_lived(
    config: Config, monkeypatch: pytest.MonkeyPatch, option: str, value: str, known: str
):
    monkeypatch.setattr(forgetting, "_all", lambda *told: pytest.fail("it was lived"))
    with pytest.raises(ConfigError, match=value) as problem:
        forgetting.run(config, **{option: [value]})
    assert known in problem.value.hint


def test_streams_of_other_lengths_have_pictures_of_their_own(config: Config):
    short = {**life("replay", 0.9), "family": "desk", "lasting": [0], "matrix": [[0], [1]], "unseen": [[0], [1]]}
    lives = [life("replay", 0.9), life("replay", 0.8, 2), short]
    folder = Path(forgetting._keep(config, summarise(lives) | {"table": "-"}, lives))
    assert sorted(p.name for p in folder.glob("*.png")) == ["matrix-replay-desk.png", "matrix-replay-museum.png"]


@pytest.mark.parametrize("name", [*ABLATIONS, "naive"])
def test_an_ablation_lives_as_the_default_without_one_part(config: Config, monkeypatch: pytest.MonkeyPatch, name: str):
    seen = []
    monkeypatch.setattr(forgetting, "live", lambda *told: seen.append(told) or {"strategy": told[1], "family": told[2]})
    lived = forgetting._live(config, name, "museum", 1, 0.5, 2)
    (settings, strategy, *rest), parts = seen[0], ABLATIONS.get(name, {})
    assert lived["strategy"] == name
    assert rest == ["museum", 1, 0.5, 2]
    assert strategy == (config.update.strategy if parts else name)
    changed = {(s, k) for s, values in parts.items() for k in values}
    for section in ("model", "collect", "replay", "training", "update", "evaluate", "gate"):
        before, after = (getattr(c, section).model_dump() for c in (config, settings))
        assert {(section, k) for k in before if before[k] != after[k]} == {c for c in changed if c[0] == section}


class _AtOnce:
    """Stands for a pool of processes: a life is lived where it is asked for."""

    def __init__(self, *_told: object, **_more: object) -> None: ...

    def __enter__(self) -> "_AtOnce":
        return self

    def __exit__(self, *_problem: object) -> None: ...

    def submit(self, work, *told) -> Future:
        done: Future = Future()
        done.set_result(work(*told))
        return done


def test_lives_that_were_kept_are_not_lived_again(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lived: list[tuple] = []
    monkeypatch.setattr(forgetting, "ProcessPoolExecutor", _AtOnce)
    monkeypatch.setattr(forgetting, "_keep", lambda *told: "run")
    monkeypatch.setattr(forgetting, "live", lambda own, s, f, n, *size: lived.append((s, n)) or {**life(s, 0.5, n), "family": f})
    file = tmp_path / "lives.jsonl"
    asked = {"families": ["museum"], "lives": str(file)}
    first = forgetting.run(config, strategies=["replay", "without_near"], seeds=[1], **asked)
    assert sorted(x["strategy"] for x in first["lives"]) == ["replay", "without_near"]
    with file.open("a") as out:
        out.write('{"name": "half a li')  # who was interrupted
    again = forgetting.run(config, strategies=["replay", "without_near"], seeds=[1, 2], **asked)
    assert sorted(lived) == [("replay", 1), ("replay", 1), ("replay", 2), ("replay", 2)]
    assert again["methods"]["without_near"]["acc"] == first["methods"]["without_near"]["acc"]
    forgetting.run(config, strategies=["replay", "without_near"], seeds=[1, 2], **asked)
    assert len(lived) == 4, "all of them are known"
    other = config.model_copy(update={"update": config.update.model_copy(update={"noise": 0.5})})
    forgetting.run(other, strategies=["replay"], seeds=[1], **asked)
    assert len(lived) == 5, "lived with other settings it is another life"
    taught = forgetting.stream("museum", 1, scale=1.0)
    taught[0].rows.pop()
    monkeypatch.setattr(forgetting, "stream", lambda *told, **more: taught)
    forgetting.run(config, strategies=["replay"], seeds=[1], **asked)
    assert len(lived) == 6, "and of other rows"
