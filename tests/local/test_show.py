from datetime import datetime

from llmagentos.local import show
from llmagentos.local.progress import Progress

LONG = "long " * 100


def test_what_goes_into_a_pipe_or_a_file_has_its_lines_whole(capsys):
    show.facts({"reason": LONG})
    show.quarantine({"n": 1, "rows": [{"id": "1", "source": "import", "reason": "invalid", "detail": LONG}]})
    Progress().say(LONG)
    said = capsys.readouterr()
    assert said.err == LONG + "\n"
    facts, *table = said.out.splitlines()
    assert facts == f"reason: {LONG}"
    assert sum(LONG.strip() in line for line in table) == 1


def test_a_terminal_is_not_written_beyond_its_edge(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    show.facts({"reason": LONG})
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_answers_that_were_asked_for_are_shown(capsys):
    rows = [{"id": "a", "right": True, "answer": "12", "wanted": "12"}, {"id": "b", "right": False, "answer": "", "wanted": "13"}]
    show.accuracy({"version": 3, "n": 2, "accuracy": 0.5, "skills": {}, "keys": {}, "rows": rows})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "wrong" in line] == [["│", "b", "│", "wrong", "│", "│", "13", "│"]]
    assert sum("12" in line for line in lines) == 1


def test_nothing_is_said_to_be_nothing(capsys):
    show.facts({"stopped": [], "rows": [{"a": 1}, {"a": 2}]})
    assert capsys.readouterr().out == "stopped: none\nrows: a 1; a 2\n"


def test_moments_are_dates_wherever_they_stand(capsys):
    at = datetime(2026, 5, 4, 3, 2, 1).astimezone()
    show.facts({"version": {"created": at.timestamp()}, "releases": [{"epoch": 1, "created": at.timestamp()}]})
    said = capsys.readouterr().out
    assert said.count("2026-05-04 03:02:01") == 2
    assert "epoch 1, created 2026" in said


def test_of_a_year_of_scores_the_mean_and_the_lowest_are_shown(capsys):
    scores = {f"day-{k}": 1.0 for k in range(300)} | {"worst": 0.4}
    row = {"id": 1, "role": "agent", "parent": None, "status": "promoted", "aliases": []}
    show.versions({"data": [{**row, "scores": scores}, {**row, "scores": {"facts": 0.5}}]})
    said = capsys.readouterr().out
    assert "301 suites: mean 1.00, lowest worst 0.40" in said
    assert "facts 0.50" in said


def test_where_there_is_nothing_it_is_said_what_begins_it(capsys):
    show.versions({"data": []})
    show.keys({"data": []})
    show.quarantine({"n": 0, "rows": []})
    first, second, third = capsys.readouterr().out.splitlines()
    assert "llmagentos up" in first
    assert "llmagentos keys add" in second
    assert third == "Nothing is set aside."
