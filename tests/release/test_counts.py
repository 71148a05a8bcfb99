import pytest

from llmagentos.release import counts
from llmagentos.release.counts import Counts, Sheet, answered
from llmagentos.storage.layout import Home


def test_a_quantile_is_right_to_a_bucket():
    seen = Counts()
    assert seen.quantile(0.5) is None
    for n in range(1, 101):
        seen = seen.plus(answered(n / 100))
    assert seen.answers == 100
    assert seen.quantile(0.5) == pytest.approx(0.5, rel=0.1)
    assert seen.quantile(0.95) == pytest.approx(0.95, rel=0.1)
    assert answered(0.0).quantile(1.0) < 1e-5


def test_what_replicas_saw_adds_up_and_an_older_stage_does_not_count(home: Home):
    assert counts.read(home, 3) == {}
    sheet = Sheet(stage=3).plus(1, answered(0.1)).plus(2, answered(0.2, degenerate=True)).plus(2, Counts(errors=1))
    counts.write(home, "a", sheet)
    counts.write(home, "b", Sheet(stage=3, dropped=2).plus(2, answered(0.2)))
    counts.write(home, "c", Sheet(stage=2).plus(2, answered(0.2)))
    (home.served / "stages" / "d.json").write_text("{")
    seen = counts.read(home, 3)
    assert seen == {"a": sheet, "b": Sheet(stage=3, dropped=2, versions={2: answered(0.2)})}
    both = counts.total(seen.values(), 2)
    assert (both.answers, both.errors, both.degenerate, sum(both.seconds.values())) == (2, 1, 1, 2)
    assert counts.total(seen.values(), None) == Counts()
    counts.forget(home, 3)
    assert [path.stem for path in sorted((home.served / "stages").iterdir())] == ["a", "b"]


def test_a_replica_goes_on_with_its_own_sheet(home: Home):
    counts.write(home, "a", Sheet(stage=3).plus(1, answered(0.1)))
    counts.write(home, "a", counts.read(home, 3)["a"].plus(1, answered(0.1)))
    assert counts.read(home, 3)["a"].of(1).answers == 2
