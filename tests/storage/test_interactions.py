from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage import interactions, maintenance
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.maintenance import maintain
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


def test_a_lookup_in_a_compacted_file_reads_the_rows_around_it_alone(tmp_path: Path):
    home = Home(tmp_path).open()
    tables, spool = Tables(home), open_spool(home)
    for start in (0, 900, 1800):
        spool.put([FULL.model_copy(update={"id": f"i{n}"}) for n in range(start, start + 900)])
        flush(home, spool=spool)
    maintain(home, most=2)
    (file,) = tables.files_with("interactions", "seq", [1])
    groups = pq.ParquetFile(file).metadata
    assert groups.num_row_groups == 3
    assert [interactions.find(home, f"i{n}", spool=spool).seq for n in (0, 1023, 1024, 2699)] == [1, 1024, 1025, 2700]
    with open(file, "r+b") as written:  # the group of the newest rows, which stand first
        second = groups.row_group(1).column(0)
        written.seek(4)
        written.write(bytes((second.dictionary_page_offset or second.data_page_offset) - 4))
    assert interactions.find(home, "i0", spool=spool).seq == 1
    spool.close()


def test_a_row_is_found_while_its_file_is_written_anew(home: Home, monkeypatch: pytest.MonkeyPatch):
    spool = open_spool(home)
    spool.put([Interaction(id=name, created=1.0, messages=[]) for name in ("gone", "stays")])
    flush(home, spool=spool)
    whole = Tables.files_with

    def then_erased(self: Tables, *arguments: object) -> list[str]:
        files = whole(self, *arguments)
        monkeypatch.setattr(Tables, "files_with", whole)
        maintenance.delete(home, "interactions", "seq", [1])
        return files

    monkeypatch.setattr(Tables, "files_with", then_erased)
    assert interactions.find(home, "stays", spool=spool).id == "stays"
    spool.close()
