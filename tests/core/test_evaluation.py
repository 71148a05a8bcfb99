import pytest
from pydantic import ValidationError

from llmagentos.core.evaluation import Decision, EvalItem, Suite


@pytest.mark.parametrize(("verdict", "promotes"), [("Promote", True), ("Reject", False), ("Hold", False), ("Skipped", False)])
def test_only_promote_promotes(verdict: str, promotes: bool):
    assert Decision(verdict=verdict, reasons=[]).promotes is promotes


def test_a_verdict_out_of_thin_air_is_refused():
    with pytest.raises(ValidationError):
        Decision(verdict="Maybe", reasons=[])


def test_a_suite_survives_json():
    item = EvalItem(id="i", messages=[{"role": "user", "content": "价格？"}, {"role": "assistant", "content": "12"}], wrong="11")
    suite = Suite(name="s", kind="stale", hash="h", items=[item], order=2)
    assert item.content != item.question
    assert Suite.model_validate_json(suite.model_dump_json()) == suite
