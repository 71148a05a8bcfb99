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
