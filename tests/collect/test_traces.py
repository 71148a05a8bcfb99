from collections.abc import Sequence
from pathlib import Path

import pytest

from llmagentos.collect import traces
from llmagentos.config import Config, load_config
from llmagentos.core.records import Interaction
from llmagentos.registry import tracking
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home


def settings(root: Path, *overrides: str) -> Config:
    return load_config(None, [f"storage.root={root}", *overrides], environment={})


def answer(number: int, said: str = "A lamp.", **fields: object) -> Interaction:
    messages = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": said}]
    told = {"model_version": 3, "latency_ms": 5.0, "prompt_ids": [1, 2], "answer_ids": [3], "finish_reason": "stop"}
    return Interaction(**{"id": f"chatcmpl-{number}", "created": 1000.0 + number, "messages": messages, **told, **fields})


def record(root: Path, answers: Sequence[Interaction]) -> None:
    home = Home(root).open()
    spool = open_spool(home)
    spool.put(answers)
    spool.close()
    flush(home)


def kept(config: Config, version: int) -> dict[str, str]:
    """Interaction -> what was answered, of a version's traces."""
    client = tracking.warm_up(config)
    experiment = client.get_experiment_by_name("llmagentos").experiment_id
    found = client.search_traces([experiment], filter_string=f"tags.`llmagentos.version` = '{version}'")
    said = {t.info.tags["llmagentos.interaction"]: t.data.spans[0].outputs["choices"][0]["message"]["content"] for t in found}
    assert len(said) == len(found)
    return said


def test_what_may_be_shown_is_and_only_once(tmp_path: Path):
    config = settings(tmp_path, "registry.trace_share=1")
    hidden = [
        answer(4, messages=[], stored=False),
        answer(5, tenant="acme"),
        answer(6, tier="import"),
    ]
    record(tmp_path, [answer(1), answer(2, "Write to mary@shop.example."), answer(3, model_version=4), *hidden])
    assert traces.trace(config) == 3
    assert traces.trace(config) == 0
    record(tmp_path, [answer(7)])
    assert traces.trace(config) == 1
    expected = {"chatcmpl-1": "A lamp.", "chatcmpl-2": "Write to [EMAIL].", "chatcmpl-7": "A lamp."}
    assert kept(config, 3) == expected
    assert kept(config, 4) == {"chatcmpl-3": "A lamp."}
    assert str(tmp_path) not in (tmp_path / "mlflow" / "traces.json").read_text(), "an address may hold a password"
    (tmp_path / "mlflow" / "traces.json").unlink()
    assert traces.trace(config) == 4
    assert kept(config, 3) == expected, "the tags tell what is there"


def test_a_share_is_sampled_and_a_flood_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken: list[str] = []
    monkeypatch.setattr(traces.traces, "write", lambda _config, answers: bool(taken.extend(one.id for one in answers)) or True)
    record(tmp_path / "share", [answer(n) for n in range(400)])
    assert 20 < traces.trace(settings(tmp_path / "share", "registry.trace_share=0.1")) < 80
    taken.clear()
    record(tmp_path / "flood", [answer(n) for n in range(300)])
    assert traces.trace(settings(tmp_path / "flood", "registry.trace_share=1")) == 200
    assert taken == [f"chatcmpl-{n}" for n in range(100, 300)]


def test_while_mlflow_is_away_they_wait_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = settings(tmp_path, "registry.trace_share=1")
    record(tmp_path, [answer(1)])
    with monkeypatch.context() as away:
        away.setattr(traces.traces, "write", lambda *_: False)
        assert traces.trace(config) == 0
    assert traces.trace(config) == 1
    assert set(kept(config, 3)) == {"chatcmpl-1"}


@pytest.mark.parametrize("override", ["registry.trace_share=0", "registry.enabled=false"])
def test_where_nobody_wants_them_nothing_is_touched(tmp_path: Path, override: str):
    record(tmp_path, [answer(1)])
    assert traces.trace(settings(tmp_path, "registry.trace_share=1", override)) == 0
    assert not (tmp_path / "mlflow").exists()
