import stat
from dataclasses import replace

import pytest

from llmagentos.core.errors import ConflictError
from llmagentos.storage import tombstones
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables


def test_where_nobody_was_erased_nobody_is_barred_and_no_table_is_made(home: Home):
    assert not tombstones.barred(home).bars("default", "ann", 0.0)
    assert tombstones.every(home) == []
    assert not home.table("erasures").exists()


def test_a_person_is_barred_up_to_the_moment_in_their_own_tenant_alone(home: Home):
    made = tombstones.begin(home, "acme", "ann", {})
    known = tombstones.barred(home)
    assert known.bars("acme", "ann", made.moment)
    assert not known.bars("acme", "ann", made.moment + 1)
    assert not known.bars("other", "ann", made.moment)
    assert not known.bars("acme", "bob", made.moment)
    assert not known.bars("acme", None, 0.0)


def test_rows_are_dropped_on_their_way_only_once_nobody_looks_for_them_any_more(home: Home):
    made = tombstones.begin(home, "default", "ann", {})
    assert not tombstones.barred(home).dropped("default", "ann", made.moment)
    tombstones.write(home, replace(made, found=True))
    known = tombstones.barred(home)
    assert [known.dropped("default", "ann", made.moment + more) for more in (0, 1)] == [True, False]
    assert not known.dropped("default", None, 0.0)


def test_what_was_erased_is_barred_by_its_number_whatever_it_says(home: Home):
    tombstones.write(home, replace(tombstones.begin(home, "default", "ann", {}), interactions=(7, 9)))
    assert [tombstones.barred(home).bars("default", None, 1e12, seq) for seq in (7, 8, 9)] == [True, False, True]


def test_the_table_names_nobody_and_the_salt_is_its_users_alone(home: Home):
    tombstones.begin(home, "default", "ann-of-the-hill", {})
    assert "ann-of-the-hill" not in str(Tables(home).rows("erasures"))
    assert stat.S_IMODE((home.keys / "erasures.salt").stat().st_mode) == 0o600
    assert tombstones.salt(home) == tombstones.salt(home)


def test_a_row_that_an_older_release_wrote_is_read(home: Home):
    tombstones.write(home, replace(tombstones.begin(home, "default", "ann", {}), done=True))
    tables = Tables(home)
    tables.overwrite("erasures", [{**row, "interactions": None, "receipt": None} for row in tables.rows("erasures")])
    assert tombstones.barred(home).dropped("default", "ann", 0.0)
    assert [(one.interactions, one.receipt, one.found) for one in tombstones.every(home)] == [((), {}, True)]


def test_two_homes_call_the_same_person_otherwise(home: Home, tmp_path):
    other = Home(tmp_path / "other").open()
    assert tombstones.begin(home, "default", "ann", {}).person != tombstones.begin(other, "default", "ann", {}).person


def test_an_unfinished_one_is_gone_on_with_and_a_finished_one_is_not(home: Home):
    first = tombstones.begin(home, "default", "ann", {"n": 1})
    again = tombstones.begin(home, "default", "ann", {"n": 2})
    assert (again.id, again.receipt) == (first.id, {"n": 1})
    assert again.moment >= first.moment
    tombstones.write(home, replace(again, done=True))
    assert tombstones.begin(home, "default", "ann", {}).id != first.id
    assert [one.done for one in tombstones.every(home)] == [True, False]


def test_two_who_go_on_with_the_same_one_are_told_apart(home: Home, monkeypatch: pytest.MonkeyPatch):
    made = tombstones.begin(home, "default", "ann", {})
    before = Tables.transaction(Tables(home), "erasures", "erasures")
    tombstones.write(home, made)
    monkeypatch.setattr(Tables, "transaction", lambda *_: before)
    with pytest.raises(ConflictError):
        tombstones.write(home, made)
