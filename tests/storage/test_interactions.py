from pathlib import Path

from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage import interactions
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

FULL = Interaction(
    id="a",
    created=1.5,
    model_version=3,
    session_id="s",
    user_id="u",
    scenario="shop",
    skill="facts",
    key="k",
    messages=[
        {"role": "user", "content": "价格?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
    ],
    tools=[{"type": "function", "function": {"name": "f"}}],
    prompt_ids=[1, 2],
    answer_ids=[3],
    renderer="r",
    finish_reason="stop",
    latency_ms=2.5,
    request_hash="h",
)
JUDGED = Feedback(
    id="f",
    interaction_id="a",
    created=2.0,
    name="rating",
    value=4,
    correction={"role": "assistant", "content": "42"},
)


def test_a_record_survives_the_way_through_delta(tmp_path: Path):
    home = Home(tmp_path).open()
    spool = open_spool(home)
    spool.put([FULL, JUDGED])
    assert interactions.find(home, "a") == FULL
    flush(home, spool=spool)
    assert interactions.find(home, "a", spool=spool) == FULL.model_copy(update={"seq": 1})
    assert interactions.find(home, "nobody", spool=spool) is None
    stored = interactions.decode(Tables(home).rows("feedback")[0])
    assert stored == JUDGED.model_copy(update={"seq": 1, "interaction_seq": 1})
    spool.close()


def test_values_keep_their_type():
    for value in (True, False, 1.0, 0.5, "fine", None):
        record = JUDGED.model_copy(update={"value": value})
        again = interactions.decode(interactions.encode(record))
        assert isinstance(again, Feedback)
        assert again.value == value
        assert type(again.value) is type(value)
