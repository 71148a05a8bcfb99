import json
from pathlib import Path

from llmagentos.serve.journal import Journal
from llmagentos.storage.layout import Home


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_two_replicas_write_a_line_at_a_time(home: Home):
    one, two = Journal(home, "a"), Journal(home, "b")
    for n in range(3):
        one.write(status=200, n=n, interaction=None)
        two.write(status=404, n=n)
    said = lines(home.local / "logs" / "requests.jsonl")
    assert [(line["replica"], line["n"]) for line in said] == [(r, n) for n in range(3) for r in "ab"]
    assert "interaction" not in said[0]


def test_a_value_cannot_begin_a_line_of_its_own(home: Home):
    book = Journal(home, "a")
    book.write(route='x\n{"status": 200}')
    assert len(lines(book.path)) == 1


def test_it_begins_anew_at_a_size_and_keeps_the_one_before(home: Home):
    book = Journal(home, "a", largest=200)
    for n in range(12):
        book.write(n=n)
    kept = [*lines(book.path.with_suffix(".1.jsonl")), *(lines(book.path) if book.path.exists() else [])]
    assert [line["n"] for line in kept] == list(range(12 - len(kept), 12))
    assert len(kept) < 12
    assert len(list(book.path.parent.iterdir())) <= 2


def test_a_disk_that_fails_costs_lines_and_nothing_else(home: Home):
    book = Journal(home, "a")
    book.path.mkdir(parents=True)
    book.write(status=200)
    book.path.rmdir()
    book.write(status=404)
    assert [line["status"] for line in lines(book.path)] == [404]
