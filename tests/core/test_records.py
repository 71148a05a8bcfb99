import pytest
from pydantic import ValidationError

from llmagentos.core.records import Assignment, Interaction, ModelVersion, Release, RunRecord


def test_a_record_is_frozen_and_knows_its_fields():
    record = Interaction(id="a", created=0.0, messages=[])
    with pytest.raises(ValidationError):
        record.id = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="renamed"):
        Interaction(id="a", created=0.0, messages=[], renamed=1)  # type: ignore[call-arg]


def test_a_version_gives_an_engine_all_it_needs():
    version = ModelVersion(id=7, dir="/x", manifest_hash="h", created=0.0)
    assert version.ref().model_dump() == {"id": 7, "dir": "/x", "manifest_hash": "h"}


def test_aliases_point_only_at_what_is_there():
    assert Release().aliases() == {}
    release = Release(champion=5, student=6, history=[1, 3, 5])
    assert release.previous == 3
    assert release.aliases() == {"champion": 5, "previous": 3, "student": 6}
    assert Release(champion=1, history=[1]).previous is None


def test_who_is_answered_by_which_adapter():
    own, shared, newer = 7, 8, 9
    now = Release(
        adapters=[Assignment(kind="tenant", name="acme", version=own), Assignment(kind="scenario", name="shop", version=shared)]
    )
    asked = {("acme", None): own, ("acme", "shop"): own, ("other", "shop"): shared, ("other", None): None, ("shop", "acme"): None}
    assert {who: now.adapter_of(*who) for who in asked} == asked
    assert [now.open_to(one, "acme") for one in (own, shared, newer)] == [True, True, False]
    assert [now.open_to(one, "other") for one in (own, shared, newer)] == [False, True, False]


def test_a_run_has_a_known_kind_and_status():
    with pytest.raises(ValidationError, match="kind"):
        RunRecord(id="r", kind="dance", created=0.0)  # type: ignore[arg-type]
