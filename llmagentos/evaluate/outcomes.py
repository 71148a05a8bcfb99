"""Which items each version answered rightly, kept for as long as its record: what was forgotten is told on items that both
versions were asked, since what an exam asks changes from day to day."""

import json

from llmagentos.core.evaluation import EvalReport
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home
from llmagentos.storage.suites import STALE

Outcomes = dict[str, dict[str, bool]]
"""Suite -> item -> right."""


def keep(home: Home, version: int, report: EvalReport) -> None:
    """Add what a version was asked to what it was asked before; superseded items, whose suite is another every day, apart."""
    known = read(home, version)
    for result in report.results:
        if result.suite != STALE:
            known.setdefault(result.suite, {})[result.item_id] = result.right
    sides = {
        suite: [[i for i, right in items.items() if right is side] for side in (True, False)] for suite, items in known.items()
    }
    path = home.outcomes(version)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(sides, ensure_ascii=False, separators=(",", ":")))


def read(home: Home, version: int) -> Outcomes:
    """Nothing of a version that was never judged."""
    path = home.outcomes(version)
    sides = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {suite: {**dict.fromkeys(right, True), **dict.fromkeys(wrong, False)} for suite, (right, wrong) in sides.items()}
