"""A year is summed up by skill, by kind of day, and by what a day costs."""

from llmagentos.benchmark.year import summarise, table


def day(number: int, kind: str, decision: str, skill: float, seconds: float = 5.0) -> dict:
    return {
        "day": number,
        "kind": kind,
        "decision": decision,
        "seconds": 5.0,
        "cpu_seconds": seconds,
        "skills": {"knowledge": skill},
    }


def test_what_is_lost_is_measured_against_the_best_week():
    lived = [day(k, "work", "Promote", 0.9 if k < 7 else 0.8) for k in range(14)]
    found = summarise(lived)
    assert found["skills"]["knowledge"] == {"best": 0.9, "last": 0.8}
    assert "| knowledge | 0.900 | 0.800 | -0.100 |" in table(found)


def test_a_good_day_on_hold_counts_as_rejected_and_a_promoted_sabotage_is_seen():
    lived = [
        day(0, "work", "Promote", 1),
        day(1, "work", "Hold", 1),
        day(2, "noise", "Reject", 1),
        day(3, "flipped", "Promote", 1),
    ]
    lived += [day(4, "recurrence", "Skipped", 1), day(5, "empty", "Skipped", 1), day(6, "recurrence", "Promote", 1)]
    found = summarise(lived)
    assert (found["good"], found["good_rejected"]) == (5, 2)
    assert summarise([*lived, day(7, "recurrence", "Hold", 1)])["good_rejected"] == 3
    assert (found["sabotaged"], found["sabotaged_promoted"]) == (2, 1)


def test_the_cost_of_a_day_is_compared_between_the_ends():
    lived = [day(k, "work", "Promote", 1, seconds=4.0 + k) for k in range(1, 22)]
    assert summarise(lived)["seconds"]["ratio"] > 3
