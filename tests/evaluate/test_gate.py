"""The gate needs no Ray and no MLflow: reports in, a decision out."""

import pytest

from llmagentos.config.sections import GateConfig
from llmagentos.core.evaluation import EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate.gate import GateFacts, decide

CONFIG = GateConfig()


def suite(name: str, n: int) -> Suite:
    items = [
        EvalItem(id=str(k), messages=[{"role": "user", "content": str(k)}, {"role": "assistant", "content": f"a{k % 40}"}])
        for k in range(n)
    ]
    return Suite(name=name, kind="recall", hash=name, items=items)


def report(version: int, right: dict[str, list[bool]], *, degenerate: int = 0) -> EvalReport:
    results = [
        ItemResult(item_id=str(k), suite=name, right=ok, answer="a", degenerate=k < degenerate)
        for name, outcomes in right.items()
        for k, ok in enumerate(outcomes)
    ]
    return EvalReport(version=version, results=results, suites={name: name for name in right})


def facts(old: tuple[list[bool], list[bool]], new: tuple[list[bool], list[bool]], **fields: object) -> GateFacts:
    asked = fields.pop("asked", [suite("new", len(new[0]))])
    base = {
        "champion": report(1, {"old": old[0], "new": new[0]}),
        "challenger": report(2, {"old": old[1], "new": new[1]}),
        "old": [suite("old", len(old[0]))],
        "new": asked,
    }
    return GateFacts(**{**base, **fields})


GOOD_OLD = ([True] * 800, [True] * 797 + [False] * 3)
LEARNED = ([False] * 40, [True] * 38 + [False] * 2)


def test_an_update_that_learned_and_kept_is_promoted():
    decision = decide(facts(GOOD_OLD, LEARNED), CONFIG)
    assert decision.verdict == "Promote"
    assert decision.checks["retention_champion"]["lost"] == 3


def test_an_update_that_forgot_is_rejected_and_says_how_much():
    decision = decide(facts(([True] * 800, [True] * 500 + [False] * 300), LEARNED), CONFIG)
    assert decision.verdict == "Reject"
    assert "300 lost" in decision.reasons[0]


def test_an_update_that_learned_nothing_is_rejected():
    decision = decide(facts(GOOD_OLD, ([False] * 40, [False] * 40)), CONFIG)
    assert decision.verdict == "Reject"
    assert "not shown to be learned" in decision.reasons[0]


@pytest.mark.parametrize(
    ("lost", "gained", "verdict"),
    [(0, 0, "Promote"), (1, 4, "Promote"), (1, 0, "Hold"), (3, 3, "Hold"), (5, 0, "Reject")],
)
@pytest.mark.parametrize("n", [20, 59])
def test_a_home_of_few_old_items_goes_on_where_none_is_lost_on_net(n: int, lost: int, gained: int, verdict: str):
    before = [True] * (n - gained) + [False] * gained
    after = [False] * lost + [True] * (n - lost)
    decision = decide(facts((before, after), LEARNED), CONFIG)
    assert decision.verdict == verdict
    assert any(f"Only {n} old items" in reason for reason in decision.reasons)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_handful_of_old_items_of_which_one_is_lost_holds(n: int):
    assert decide(facts(([True] * n, [False] + [True] * (n - 1)), LEARNED), CONFIG).verdict == "Hold"


def first_increment(before: list[bool], after: list[bool]) -> GateFacts:
    return GateFacts(
        champion=report(1, {"new": before}), challenger=report(2, {"new": after}), old=[], new=[suite("new", len(before))]
    )


@pytest.mark.parametrize(
    ("new", "verdict"),
    [(LEARNED, "Promote"), (([False] * 40, [False] * 39 + [True]), "Reject"), (([False] * 4, [True] * 4), "Hold")],
)
def test_where_there_is_nothing_old_to_ask_the_new_items_decide(new: tuple, verdict: str):
    decision = decide(first_increment(*new), CONFIG)
    assert decision.verdict == verdict
    assert any("nothing old to ask" in reason for reason in decision.reasons)


def test_old_items_that_were_not_asked_are_not_nothing_old():
    given = first_increment(*LEARNED).model_copy(update={"old": [suite("old", 30)]})
    assert decide(given, CONFIG).verdict == "Reject"


def test_a_champion_that_knew_it_all_leaves_nothing_to_learn():
    decision = decide(facts(GOOD_OLD, ([True] * 40, [True] * 40)), CONFIG)
    assert decision.verdict == "Promote"
    assert any("nothing_to_learn" in reason for reason in decision.reasons)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([False] * 4, [True] * 4, "Promote"),
        ([False] * 4, [True] + [False] * 3, "Promote"),
        ([False] * 4, [False] * 4, "Hold"),
        ([True] * 2 + [False], [False] * 3, "Reject"),
        ([True] * 4, [True] * 4, "Promote"),
    ],
)
def test_of_a_handful_of_new_items_one_at_least_must_be_learned(before: list[bool], after: list[bool], verdict: str):
    moved = ([True] * 779 + [False] * 21, [True] * 780 + [False] * 20)  # it is no update that changed nothing
    decision = decide(facts(moved, (before, after)), CONFIG)
    assert decision.verdict == verdict
    assert ("none was learned" in decision.reasons[0]) == (verdict != "Promote")


def test_of_a_handful_of_new_items_an_update_that_changes_nothing_is_rejected():
    same = [True] * 800
    assert decide(facts((same, same), ([False] * 2, [False] * 2)), CONFIG).verdict == "Reject"


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([True] * 18, "Promote"),
        ([True] * 17 + [False], "Hold"),
        ([False] + [True] * 17, "Hold"),
        ([True] * 5 + [False] * 13, "Reject"),
    ],
)
def test_where_few_were_wrong_all_must_be_right_and_else_the_sample_cannot_tell(after: list[bool], verdict: str):
    decision = decide(facts(GOOD_OLD, ([True] * 16 + [False] * 2, after)), CONFIG)
    assert decision.verdict == verdict
    assert any("only 2 of 18 were wrong" in reason for reason in decision.reasons)


def test_what_was_taught_since_does_not_pay_for_what_the_anchor_knew():
    general, days = [True] * 380 + [False] * 20, [False] * 1000
    anchor = report(0, {"general": general, "days": days, "new": [False] * 40})
    champion = report(1, {"general": [True] * 196 + [False] * 204, "days": [True] * 960 + [False] * 40, "new": [False] * 40})
    challenger = report(2, {"general": [True] * 190 + [False] * 210, "days": [True] * 962 + [False] * 38, "new": [True] * 40})
    old = [suite("general", 400), suite("days", 1000)]
    told = GateFacts(champion=champion, challenger=challenger, anchor=anchor, old=old, new=[suite("new", 40)])
    decision = decide(told, CONFIG)
    assert decision.verdict == "Reject"
    assert decision.checks["anchor_knew"] == {"n": 400, "lost": 190, "gained": 0}
    assert decision.reasons[0].startswith("What the anchor knew is harmed: 190 lost, 0 gained of 400")
    # A point and a half below the anchor, of which the sample cannot say that it is two, the next day may still be learned.
    now = report(2, {"general": [True] * 374 + [False] * 26, "days": [True] * 962 + [False] * 38, "new": [True] * 40})
    close = decide(told.model_copy(update={"champion": now.model_copy(update={"version": 1}), "challenger": now}), CONFIG)
    assert close.checks["anchor_knew"] == {"n": 400, "lost": 6, "gained": 0}
    assert not any("anchor knew" in reason for reason in close.reasons)
    fresh = decide(facts(GOOD_OLD, LEARNED, anchor=report(0, {"old": [False] * 800, "new": [False] * 40})), CONFIG)
    assert fresh.verdict == "Promote", "an anchor that knew nothing has no say"


def test_the_anchor_holds_what_daily_champions_lose_bit_by_bit():
    anchor = report(0, {"old": [True] * 800, "new": [False] * 40})
    drifted = ([True] * 770 + [False] * 30, [True] * 767 + [False] * 33)
    assert decide(facts(drifted, LEARNED), CONFIG).verdict == "Promote"
    decision = decide(facts(drifted, LEARNED, anchor=anchor), CONFIG)
    assert decision.verdict == "Reject"
    assert "anchor" in decision.reasons[0]


def test_one_small_suite_that_breaks_is_seen_among_many_items():
    before = {"old": [True] * 1900, "small": [True] * 60, "new": [False] * 40}
    after = {"old": [True] * 1900, "small": [True] * 46 + [False] * 14, "new": [True] * 40}
    given = GateFacts(
        champion=report(1, before),
        challenger=report(2, after),
        old=[suite("old", 1900), suite("small", 60)],
        new=[suite("new", 40)],
    )
    decision = decide(given, CONFIG)
    assert decision.verdict == "Reject"
    assert "Suite small is harmed" in decision.reasons[0]


@pytest.mark.parametrize(
    ("name", "strict"),
    [
        ("safety", True),
        ("my-safety-rules", True),
        ("Format_2", True),
        ("product_information", False),
        ("platforms-unsafety", False),
    ],
)
def test_the_narrow_margin_is_for_suites_that_are_named_so(name: str, strict: bool):
    asked = suite(name, 400).model_copy(update={"kind": "registered"})
    before = {name: [True] * 400, "rest": [True] * 1600, "new": [False] * 40}
    after = {name: [True] * 393 + [False] * 7, "rest": [True] * 1600, "new": [True] * 40}
    base = GateFacts(
        champion=report(1, before), challenger=report(2, after), old=[asked, suite("rest", 1600)], new=[suite("new", 40)]
    )
    assert decide(base, CONFIG).verdict == ("Reject" if strict else "Promote")


@pytest.mark.parametrize("days", [0, 60, 400])
def test_however_many_days_a_safety_suite_is_guarded(days: int):
    asked = [suite("safety", 100).model_copy(update={"kind": "registered"}), *(suite(f"recall-s{k}", 3) for k in range(days))]
    before = {s.name: [True] * len(s.items) for s in [suite("old", 900), *asked]} | {"new": [False] * 40}
    after = before | {"safety": [True] * 90 + [False] * 10, "new": [True] * 40}
    given = GateFacts(
        champion=report(1, before), challenger=report(2, after), old=[suite("old", 900), *asked], new=[suite("new", 40)]
    )
    decision = decide(given, CONFIG)
    assert decision.verdict == "Reject"
    assert "Suite safety is harmed" in decision.reasons[0]


@pytest.mark.parametrize(("held_out", "verdict"), [(0, "Reject"), (17, "Promote"), (20, "Promote")])
def test_recall_gained_does_not_pay_for_generalisation_lost(held_out: int, verdict: str):
    def day(version: int, recall: bool, right: int) -> EvalReport:
        heldout = [True] * right + [False] * (40 - right)
        return report(version, {"old": [True] * 800, "recall-s1": [recall] * 100, "heldout-s1": heldout})

    given = GateFacts(
        champion=day(1, False, 20),
        challenger=day(2, True, held_out),
        old=[suite("old", 800)],
        new=[suite("recall-s1", 100), suite("heldout-s1", 40)],
    )
    decision = decide(given, CONFIG)
    assert decision.verdict == verdict
    assert ("Suite heldout-s1 is harmed" in decision.reasons[0]) is (verdict == "Reject")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"same_weights": True}, "changed nothing"),
        ({"failures": ["a hash is broken"]}, "a hash is broken"),
        ({"challenger": report(2, {"old": GOOD_OLD[1], "new": LEARNED[1]}, degenerate=40)}, "empty, endless or repeating"),
        ({"challenger": report(2, {"old": GOOD_OLD[1]})}, "missing from the report"),
    ],
)
def test_it_fails_closed(fields: dict, words: str):
    decision = decide(facts(GOOD_OLD, LEARNED, **fields), CONFIG)
    assert decision.verdict == "Reject"
    assert any(words in reason for reason in decision.reasons)


def test_a_changed_suite_is_not_the_suite_that_was_asked():
    changed = suite("old", 800).model_copy(update={"hash": "other"})
    given = facts(GOOD_OLD, LEARNED).model_copy(update={"old": [changed]})
    assert decide(given, CONFIG).verdict == "Reject"


def test_a_first_version_needs_one_right_answer():
    assert decide(facts(GOOD_OLD, LEARNED, champion=None), CONFIG).verdict == "Promote"
    none = report(2, {"old": [False] * 800, "new": [False] * 40})
    assert decide(facts(GOOD_OLD, LEARNED, champion=None, challenger=none), CONFIG).verdict == "Reject"


ANSWERS = [f"a{k}" for k in range(40)]


def saying(version: int, right: dict[str, list[bool]], answers: list[str]) -> EvalReport:
    base = report(version, right)
    results = [r.model_copy(update={"answer": answers[int(r.item_id) % len(answers)]}) for r in base.results]
    return base.model_copy(update={"results": results})


def test_an_update_that_changes_no_answer_is_rejected_unless_all_was_known():
    same = {"old": [True] * 800, "new": [False] * 40}
    decision = decide(facts((same["old"], same["old"]), (same["new"], same["new"])), CONFIG)
    assert decision.verdict == "Reject"
    assert "word for word" in decision.reasons[0]
    known = decide(facts((same["old"], same["old"]), ([True] * 40, [True] * 40)), CONFIG)
    assert known.verdict == "Promote"
    assert any("nothing_to_learn" in reason for reason in known.reasons)


def test_an_agent_that_says_one_thing_to_all_has_collapsed():
    before = saying(1, {"old": GOOD_OLD[0], "new": LEARNED[0]}, ANSWERS)
    kept = saying(2, {"old": GOOD_OLD[1], "new": LEARNED[1]}, ANSWERS[:25])
    one = saying(2, {"old": GOOD_OLD[1], "new": LEARNED[1]}, ANSWERS[:15])
    assert decide(facts(GOOD_OLD, LEARNED, champion=before, challenger=kept), CONFIG).verdict == "Promote"
    decision = decide(facts(GOOD_OLD, LEARNED, champion=before, challenger=one), CONFIG)
    assert decision.verdict == "Reject"
    assert "collapsed" in decision.reasons[0]


def test_drift_beyond_its_budget_is_an_alarm_and_no_rejection():
    decision = decide(facts(GOOD_OLD, LEARNED, drift={"new": 3.0, "old": 0.8}), CONFIG)
    assert decision.verdict == "Promote"
    assert "Consolidate" in decision.reasons[-1]
    assert not any("Drift" in r for r in decide(facts(GOOD_OLD, LEARNED, drift={"new": 3.0, "old": 0.4}), CONFIG).reasons)


def keyed(n: int, keys: int) -> Suite:
    return suite("new", n).model_copy(
        update={"items": [i.model_copy(update={"key": f"k{int(i.id) % keys}"}) for i in suite("new", n).items]}
    )


def test_many_items_of_few_keys_count_as_their_keys():
    # Eight of eighty are gained, one key's all: McNemar alone calls that learned.
    gained = [k % 10 == 0 for k in range(80)]
    decision = decide(facts(GOOD_OLD, ([False] * 80, gained), asked=[keyed(80, 10)]), CONFIG)
    figures = decision.checks["new"]
    assert figures["p"] < 0.01
    assert figures["bootstrap_p"] > 0.05
    assert decision.verdict == "Reject"
    spread = decide(facts(GOOD_OLD, ([False] * 80, [k < 40 for k in range(80)]), asked=[keyed(80, 10)]), CONFIG)
    assert spread.verdict == "Promote"


def test_grades_decide_where_there_are_grades():
    def graded(base: EvalReport, score: float) -> EvalReport:
        scored = [r.model_copy(update={"score": score + 0.1 * (int(r.item_id) % 3)}) for r in base.results if r.suite == "new"]
        return base.model_copy(update={"results": [r for r in base.results if r.suite == "old"] + scored})

    wrong = ([False] * 40, [False] * 40)
    before, after = report(1, {"old": GOOD_OLD[0], "new": wrong[0]}), report(2, {"old": GOOD_OLD[1], "new": wrong[1]})
    better = facts(GOOD_OLD, wrong, champion=graded(before, 0.2), challenger=graded(after, 0.5))
    assert decide(better, CONFIG).verdict == "Promote"
    worse = facts(GOOD_OLD, wrong, champion=graded(before, 0.5), challenger=graded(after, 0.2))
    assert decide(worse, CONFIG).verdict == "Reject"


@pytest.mark.parametrize(
    ("texts", "change", "verdict"),
    [(300, 0.0, "Promote"), (300, -0.019, "Hold"), (300, -0.2, "Reject"), (12, -0.03, "Promote"), (12, -0.3, "Reject")],
)
def test_old_free_texts_are_kept_by_their_grades(texts: int, change: float, verdict: str):
    """Each changes by another amount, so that few of them show only what is much."""

    def graded(base: EvalReport, by: float, spread: float) -> EvalReport:
        scored = [
            r.model_copy(update={"right": False, "score": 0.6 + by + spread * (k % 5 - 2)})
            for k, r in enumerate(base.results[:texts])
        ]
        return base.model_copy(update={"results": [*scored, *base.results[texts:]]})

    old = [True] * 800
    before, after = report(1, {"old": old, "new": LEARNED[0]}), report(2, {"old": old, "new": LEARNED[1]})
    decision = decide(facts((old, old), LEARNED, champion=graded(before, 0, 0), challenger=graded(after, change, 0.1)), CONFIG)
    assert (decision.verdict, "free_text" in decision.checks) == (verdict, True)


def test_an_old_free_text_changes_nothing_about_what_is_new():
    new = ([True] * 18 + [False] * 2, [True] * 20)
    old = [True] * 300
    before, after = (
        base.model_copy(update={"results": [base.results[0].model_copy(update={"score": 0.4}), *base.results[1:]]})
        for base in (report(1, {"old": old, "new": new[0]}), report(2, {"old": old, "new": new[1]}))
    )
    assert decide(facts((old, old), new, champion=before, challenger=after), CONFIG).verdict == "Promote"
