from llmagentos.core.evaluation import EvalReport, ItemResult
from llmagentos.evaluate.outcomes import keep, read
from llmagentos.storage.layout import Home


def report(**suites: dict[str, bool]) -> EvalReport:
    results = [
        ItemResult(item_id=i, suite=s, right=right, answer="") for s, items in suites.items() for i, right in items.items()
    ]
    return EvalReport(version=1, results=results, suites={})


def test_what_a_version_was_asked_is_kept_item_by_item(home: Home):
    assert read(home, 1) == {}
    keep(home, 1, report(a={"x": True, "y": False}, stale={"z": True}))
    keep(home, 1, report(a={"y": True, "w": False}, b={"x": False}))
    assert read(home, 1) == {"a": {"x": True, "y": True, "w": False}, "b": {"x": False}}
    assert read(home, 2) == {}
