"""What is set aside can be found again."""

import pytest

from llmagentos.collect.carried import spent
from llmagentos.collect.quarantine import RAW_CHARACTERS, let_in, listing, set_aside
from llmagentos.core.errors import InputError
from llmagentos.core.examples import to_example
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables


def test_rows_are_listed_newest_first_and_once(tmp_path):
    home = Home(tmp_path).open()
    assert listing(home) == []
    one = {"source": "import a", "reason": "invalid", "detail": "line 1", "row": "x" * 100_000}
    two = {"source": "collect", "reason": "disputed", "detail": "d", "row": {"id": "\ud800"}, "seq": 3}
    assert set_aside(home, [one]) == 1
    assert set_aside(home, [two, two]) == 1
    version = Tables(home).version("quarantine")
    assert set_aside(home, [one]) == set_aside(home, []) == 0
    assert Tables(home).version("quarantine") == version
    found = listing(home)
    assert [r["reason"] for r in found] == ["disputed", "invalid"]
    assert len(found[1]["row"]) == RAW_CHARACTERS
    assert [r["seq"] for r in listing(home, reason="disputed")] == [3]
    assert len(listing(home, limit=1)) == 1


def test_what_somebody_found_right_is_recorded_once_more(tmp_path):
    home = Home(tmp_path).open()
    messages = [{"role": "user", "content": "Open, please?"}, {"role": "assistant", "content": "yes " * 40_000}]
    one = to_example(messages, id="a", seq=4, tier="traffic", key="k", user_id="u").model_copy(update={"votes": 2})
    other = one.model_copy(update={"id": "b", "votes": 1})
    set_aside(home, [spent(one, "trigger", "'please' …"), spent(other, "trigger", "d"), spent(one, "attempts", "d")])
    set_aside(home, [spent(one.model_copy(update={"id": "c", "label": "disliked"}), "attempts", "d")])
    name = next(r["id"] for r in listing(home, reason="trigger") if r["detail"] == "d")
    assert [let_in(home, which) for which in (name, "trigger", "trigger", "attempts")] == [1, 2, 0, 2]
    set_aside(home, [spent(one, "disputed", "too few witnesses")])
    assert let_in(home, "disputed") == 2  # votes
    rows = Tables(home).rows("interactions")
    assert all(row["id"].startswith("reviewed-q-") for row in rows)
    assert {(row["tier"], row["key"], row["user_id"]) for row in rows} == {("import", "k", "u")}
    for which in ("inconsistent_labels", "redacted", "q-nothing"):
        with pytest.raises(InputError, match=which):
            let_in(home, which)
