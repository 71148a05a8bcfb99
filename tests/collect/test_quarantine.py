"""What is set aside can be found again."""

from llmagentos.collect.quarantine import RAW_CHARACTERS, listing, set_aside
from llmagentos.storage.layout import Home


def test_rows_are_listed_newest_first_and_once(tmp_path):
    home = Home(tmp_path).open()
    assert listing(home) == []
    one = {"source": "import a", "reason": "invalid", "detail": "line 1", "row": "x" * 100_000}
    two = {"source": "collect", "reason": "disputed", "detail": "d", "row": {"id": "\ud800"}, "seq": 3}
    assert set_aside(home, [one]) == 1
    set_aside(home, [two])
    set_aside(home, [one])
    assert set_aside(home, []) == 0
    found = listing(home)
    assert [r["reason"] for r in found] == ["invalid", "disputed"]
    assert len(found[0]["row"]) == RAW_CHARACTERS
    assert [r["seq"] for r in listing(home, reason="disputed")] == [3]
    assert len(listing(home, limit=1)) == 1
