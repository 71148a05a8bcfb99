import pytest

from llmagentos.config.sections import TriggerConfig
from llmagentos.update.trigger import Run, TriggerFacts, Wait, decide

CONFIG = TriggerConfig(min_rows=100, max_wait_hours=12, every_hours=24)


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        (
            TriggerFacts(new_rows=3, oldest_hours=11, least_rows=8, alarms=("Drift",)),
            Wait,
            "3 new rows wait; an increment needs 8",
        ),
        (TriggerFacts(new_rows=3, oldest_hours=99, least_rows=8, since_cycle_hours=11), Wait, "an increment needs 8"),
        (TriggerFacts(new_rows=3, oldest_hours=99, least_rows=8, since_cycle_hours=12), Run, "waited 99.0 hours"),
        (TriggerFacts(new_rows=3, oldest_hours=99, least_rows=8), Run, "waited 99.0 hours"),
        (TriggerFacts(new_rows=100, since_cycle_hours=1), Run, "100 new rows"),
        (TriggerFacts(new_rows=9, oldest_hours=12.5, since_cycle_hours=12), Run, "waited 12.5 hours"),
        (TriggerFacts(new_rows=9, oldest_hours=12.5, since_cycle_hours=1), Wait, "9 of 100 new rows"),  # it could not be taken
        (TriggerFacts(new_rows=9, since_cycle_hours=1, alarms=("Inputs shifted: a.",)), Run, "Inputs shifted"),
        (TriggerFacts(new_rows=250, since_cycle_hours=1, fresh=False), Wait, "could take none"),
        (TriggerFacts(new_rows=9, since_cycle_hours=1, fresh=False, alarms=("Inputs shifted: a.",)), Wait, "could take none"),
        (TriggerFacts(new_rows=250, oldest_hours=13, since_cycle_hours=12, fresh=False), Run, "waited 13.0 hours"),
        (TriggerFacts(new_rows=9, since_cycle_hours=24), Run, "schedule of 24 hours"),
        (TriggerFacts(new_rows=9), Run, "schedule"),
        (TriggerFacts(new_rows=9, oldest_hours=2, since_cycle_hours=23), Wait, "9 of 100 new rows, the oldest 2.0 of 12 hours"),
        (TriggerFacts(new_rows=0), Wait, "0 new rows"),
    ],
)
def test_each_reason_is_enough_and_none_is_not(facts: TriggerFacts, kind: type, words: str):
    answer = decide(facts, CONFIG)
    assert isinstance(answer, kind)
    assert words in answer.reason


def test_without_a_schedule_only_rows_their_age_and_alarms_count():
    facts = TriggerFacts(new_rows=9, since_cycle_hours=1000)
    assert isinstance(decide(facts, TriggerConfig(min_rows=100)), Wait)
