from llmagentos.core.evaluation import EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate.sanity import collapsed_answers, degenerate_answers, missing_suites, same_answers


def report(answers: list[str], *, degenerate: int = 0, hash: str = "h") -> EvalReport:
    results = [
        ItemResult(item_id=str(k), suite="s", right=True, answer=a, degenerate=k < degenerate) for k, a in enumerate(answers)
    ]
    return EvalReport(version=1, results=results, suites={"s": hash})


def suite(answers: list[str]) -> Suite:
    items = [EvalItem(id=str(k), messages=[{"role": "assistant", "content": a}]) for k, a in enumerate(answers)]
    return Suite(name="s", kind="recall", hash="h", items=items)


MANY = [f"a{k}" for k in range(40)]


def test_a_suite_under_another_hash_is_missing():
    assert missing_suites(report(MANY), [suite(MANY)]) == []
    assert "missing" in missing_suites(report(MANY, hash="other"), [suite(MANY)])[0]


def test_a_few_degenerate_answers_more_are_let_through_and_many_are_not():
    assert degenerate_answers(report(MANY * 5), report(MANY * 5, degenerate=4)) is None
    assert "7.5%" in str(degenerate_answers(report(MANY), report(MANY, degenerate=3)))
    assert degenerate_answers(report(MANY, degenerate=3), report(MANY, degenerate=3)) is None
    assert degenerate_answers(report(MANY[:30]), report(MANY[:30], degenerate=1)) is None
    assert "6.7%" in str(degenerate_answers(report(MANY[:30]), report(MANY[:30], degenerate=2)))


def test_less_than_half_as_many_different_answers_is_a_collapse():
    asked = [suite(MANY)]
    assert collapsed_answers(report(MANY), report(MANY[:20] * 2), asked) is None
    assert "47.5%" in str(collapsed_answers(report(MANY), report([*MANY[:19], *MANY[:19], "a0", "a1"]), asked))
    assert collapsed_answers(report(MANY[:10]), report(["a"] * 10), [suite(MANY[:10])]) is None  # too few to tell
    assert collapsed_answers(report(["yes", "no"] * 20), report(["yes", "no"] * 20), asked) is None


def test_few_different_answers_are_no_collapse_where_few_are_right():
    yes_or_no = [suite(["yes", "no"] * 20)]
    assert collapsed_answers(report(MANY), report(["yes", "no"] * 20), yes_or_no) is None
    assert collapsed_answers(report(MANY), report(["yes"] * 40), [suite(MANY)])


def test_one_other_word_is_a_change():
    assert same_answers(report(MANY), report(MANY), [suite(MANY)])
    assert not same_answers(report(MANY), report([*MANY[:39], "b"]), [suite(MANY)])
    assert not same_answers(report(MANY), report(MANY), [])
