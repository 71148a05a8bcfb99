"""What a cycle says that updated nothing."""

import pytest

from llmagentos.config import Config, load_config
from llmagentos.core.examples import example_of_row
from llmagentos.cycle.result import nothing_new
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        ({"verdict": "Promote"}, None),
        ({"verdict": "Reject", "settings": "abc"}, "(rejected) wait for the next new row, or other settings."),
        ({"verdict": "Hold", "untrained": True}, "(held) wait for the next new row."),
    ],
)
def test_it_says_what_waits_all_the_same(config: Config, home: Home, decision: dict[str, object], said: str | None):
    config = load_config(overrides=[f"storage.root={config.storage.root}", "collect.min_rows=1"], environment={})
    assert nothing_new(config) == "No new rows: nothing was updated."
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    made = snapshots.create(home, snapshots.Draft(examples=[example_of_row({"messages": messages})], n_new=1))
    snapshots.decide(home, made.id, decision)
    more = f" 1 rows of {made.id} {said}" if said else ""
    assert nothing_new(config) == f"No new rows: nothing was updated.{more}"
