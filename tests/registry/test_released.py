"""The newest of many releases, wherever it lies."""

from llmagentos.core.records import Release
from llmagentos.registry import released
from llmagentos.storage.layout import Home
from llmagentos.storage.maintenance import maintain
from llmagentos.storage.tables import Tables


def test_it_is_found_in_its_own_file_and_among_others_that_became_one(home: Home):
    assert released.current(home).epoch == -1
    tables = Tables(home)
    for epoch in range(4):
        release = Release(epoch=epoch, champion=epoch + 1, history=[*range(1, epoch + 2)], by="me", reason="test", created=1.0)
        tables.append("releases", [released.encode(release)], expect={"release": epoch - 1})
        assert released.current(home) == release == released.every(home)[-1]
        assert len(tables.files_with("releases", "epoch", [epoch])) == 1, "older ones are not even opened"
    maintain(home, most=1)
    assert len(tables.load("releases").file_uris()) == 1
    assert released.current(home) == release


def test_a_release_of_before_there_were_adapters_and_requests_has_none(home: Home):
    row = released.encode(Release(epoch=0, champion=1)) | {"adapters": None, "request": None}
    assert (released.decode(row).adapters, released.decode(row).request) == ([], None)
