"""Coverage first, then spread; the same for the same seed."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.replay.selection import lowest, quotas, select


def row(seq, key="k", skill="s", scenario="c", tier="import", prompt=None, answer="a"):
    return {"id": str(seq), "seq": seq, "key": key, "skill": skill, "scenario": scenario, "tier": tier,
            "prompt": prompt or f"p{seq}", "answer": answer}  # fmt: skip


def test_what_fits_is_kept_and_repetitions_are_not():
    rows = [row(1, prompt="p"), row(2, prompt="p"), row(3, prompt="p", answer="b")]
    assert [r["seq"] for r in select(rows, 10)] == [2, 3]


def test_every_key_is_covered_before_any_has_two():
    rows = [row(i, key="loud") for i in range(500)] + [row(1000 + i, key=f"k{i}") for i in range(9)]
    kept = select(rows, 12)
    assert len(kept) == 12
    assert {r["key"] for r in kept} == {"loud", *(f"k{i}" for i in range(9))}


def test_small_strata_get_more_than_their_share():
    rows = [row(i, key=None, skill="big") for i in range(900)] + [row(1000 + i, key=None, skill="small") for i in range(100)]
    counts = Counter(r["skill"] for r in select(rows, 40))
    assert counts == {"big": 30, "small": 10}


def test_the_seed_decides():
    rows = [row(i, key=None) for i in range(100)]
    assert select(rows, 10, 1) == select(rows[::-1], 10, 1)
    assert select(rows, 10, 1) != select(rows, 10, 2)


def test_a_sample_is_uniform():
    counts = Counter()
    for seed in range(2_000):
        counts.update(r["seq"] for r in lowest([row(i) for i in range(10)], 3, seed))
    assert all(500 < counts[i] < 700 for i in range(10))


def test_what_is_old_stays_as_likely_as_what_is_new():
    kept = []
    for day in range(100):
        kept = select([*kept, *(row(20 * day + i, key=None) for i in range(20))], 400)
    by_quarter = Counter(r["seq"] // 500 for r in kept)
    assert all(70 < by_quarter[quarter] < 130 for quarter in range(4))


@given(st.dictionaries(st.text("ab", max_size=3), st.integers(1, 50), max_size=6), st.integers(0, 120))
def test_quotas_fill_the_room_and_ask_nobody_for_more_than_there_is(sizes, capacity):
    room = quotas(sizes, capacity)
    assert sum(room.values()) == min(capacity, sum(sizes.values()))
    assert all(room[s] <= sizes[s] for s in sizes)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from("xy")), max_size=30), st.integers(0, 30))
def test_selection_is_bounded_ordered_and_covering(pairs, capacity):
    rows = [row(i, key=k, skill=s) for i, (k, s) in enumerate(pairs)]
    kept = select(rows, capacity)
    assert len(kept) == min(capacity, len(rows))
    assert kept == sorted(kept, key=lambda r: r["seq"])
    keys = {k for k, _ in pairs if k is not None}
    if capacity >= len(keys):
        assert keys <= {r["key"] for r in kept}


def test_a_share_of_each_stratum_goes_to_what_is_hard_but_not_to_noise():
    rows = [row(i, key=None, skill="ab"[i % 2]) for i in range(200)]
    asked = []

    def losses(sample):
        asked.append(len(sample))
        return {r["id"]: float(r["seq"]) for r in sample}

    kept = select(rows, 40, losses=losses, hard_share=0.25)
    assert asked == [200]
    assert len(kept) == 40
    hardest = {r["seq"] for r in rows if 189 - 10 < r["seq"] <= 189}  # the top twentieth, 190 and above, is noise
    assert hardest <= {r["seq"] for r in kept}
    plain = select(rows, 40)
    assert not hardest <= {r["seq"] for r in plain}


def test_nobody_is_asked_where_all_fits_or_only_coverage_does():
    def never(sample):
        raise AssertionError

    rows = [row(i, key=f"k{i}") for i in range(10)]
    assert len(select(rows, 10, losses=never, hard_share=0.5)) == 10
    assert len(select(rows, 5, losses=never, hard_share=0.5)) == 5
