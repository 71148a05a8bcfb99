from pathlib import Path

import numpy as np
import pytest

from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import ROWS, Plan, Rows, record_batch, write_arrow
from llmagentos.training.units import groups, units

MIX = {"new": 0.4, "memory": 0.4, "preference": 0.2}


def write_judged(path: Path, *, new: int = 40, memory: int = 60, liked: int = 12, disliked: int = 6) -> Rows:
    """Plain rows, and units of a judged row with its mismatched one."""
    rng = np.random.default_rng(0)

    def row(name: str, source: str, **fields: object) -> dict[str, object]:
        length = int(rng.integers(6, 20))
        return {"id": name, "source": source, "stratum": "s", "ids": list(range(length)),
                "mask": [0] * (length - 2) + [1, 1], **fields}  # fmt: skip

    made = [row(f"n{k}", "new") for k in range(new)] + [row(f"m{k}", "memory") for k in range(memory)]
    for k in range(liked + disliked):
        mark = {"pair": f"u{k}", "weight": 0.5}
        made += [row(f"p{k}", "preference", label=1.0 if k < liked else -1.0, **mark)]
        made += [row(f"q{k}", "preference", label=0.0, **mark)]
    write_arrow(path, [record_batch(made, ROWS)], ROWS)
    return Rows(path)


def test_a_unit_holds_the_rows_that_share_a_pair(tmp_path: Path):
    rows = write_judged(tmp_path / "r", new=1, memory=1, liked=2, disliked=1)
    assert [u.tolist() for u in units(rows)] == [[2, 3], [4, 5], [6, 7]]


def test_groups_fit_hold_every_unit_once_and_mix_the_classes(tmp_path: Path):
    rows = write_judged(tmp_path / "r")
    made = groups(rows, 200, np.random.default_rng(1))
    assert sorted(i for g in made for i in g.tolist()) == list(range(100, 136))
    assert all(len(g) * rows.lengths[g].max() <= 200 for g in made)
    assert all({-1.0, 1.0} <= set(rows.labels[g]) for g in made[:-1])


def test_a_unit_longer_than_the_room_stands_alone(tmp_path: Path):
    rows = write_judged(tmp_path / "r", liked=3, disliked=0)
    assert [len(g) for g in groups(rows, 1, np.random.default_rng(0))] == [2, 2, 2]


def test_packed_groups_hold_what_their_tokens_allow(tmp_path: Path):
    rows = write_judged(tmp_path / "r")
    packed, padded = (groups(rows, 200, np.random.default_rng(1), packed=p) for p in (True, False))
    assert all(rows.lengths[g].sum() <= 200 for g in packed)
    assert len(packed) < len(padded)


@pytest.mark.parametrize("packed", [False, True])
def test_a_plan_never_cuts_a_unit_and_keeps_the_shares(tmp_path: Path, packed: bool):
    rows = write_judged(tmp_path / "r")
    recipe = Recipe(MIX, epochs=8, batch_tokens=400, max_steps=500, ranks=2, packed=packed)
    facts = make_plan(rows, recipe, tmp_path / "p")
    assert abs(facts.ratio["preference"] - 0.2) < 0.05
    beside = 0
    for rank in range(2):
        for micro in Plan(tmp_path / "p").micro_batches(rows, rank):
            pairs = [m.pair for m in micro.marks if m.pair]
            assert all(pairs.count(p) % 2 == 0 for p in pairs)
            sizes = [len(i) for i in micro.ids]
            assert (sum(sizes) if packed else len(sizes) * max(sizes)) <= 200
            beside += bool(pairs) and "new" in micro.sources
    assert beside > 3


def test_a_mismatched_row_does_not_count_as_trained_on(tmp_path: Path):
    rows = write_judged(tmp_path / "r")
    make_plan(rows, Recipe(MIX, epochs=3, batch_tokens=400, max_steps=500), tmp_path / "p")
    for micro in Plan(tmp_path / "p").micro_batches(rows, 0):
        plain = [2 for s, m in zip(micro.sources, micro.marks, strict=True) if s != "preference" or m.label]
        assert micro.step_tokens == sum(plain)


def test_a_day_of_thumbs_alone_can_be_planned(tmp_path: Path):
    rows = write_judged(tmp_path / "r", new=0)
    facts = make_plan(rows, Recipe(MIX, epochs=2, batch_tokens=300, max_steps=500), tmp_path / "p")
    assert all(Plan(tmp_path / "p").counts().get(i, 0) >= 1 for i in range(60, 96))
    assert facts.rows.get("new", 0) == 0


def test_judged_rows_alone_are_passed_over_once_however_many_epochs_there_are(tmp_path: Path):
    rows = write_judged(tmp_path / "r", new=0)
    make_plan(rows, Recipe(MIX, epochs=20, batch_tokens=300, max_steps=500), tmp_path / "p")
    assert np.mean([Plan(tmp_path / "p").counts()[i] for i in range(60, 96)]) < 2


@pytest.mark.parametrize(("new", "judged"), [(0, 3), (300, 1), (300, 40), (10, 400)])
def test_a_judged_row_is_passed_over_once_at_least_and_no_more_often_than_what_is_new(tmp_path: Path, new: int, judged: int):
    """Neither hundreds of times where there is one, nor not at all where there are hundreds."""
    rows = write_judged(tmp_path / "r", new=new, memory=400, liked=judged - judged // 3, disliked=judged // 3)
    recipe = Recipe({**MIX, "preference": 0.1}, epochs=12, batch_tokens=300, max_steps=300, min_steps=200)
    make_plan(rows, recipe, tmp_path / "p")
    counts = Plan(tmp_path / "p").counts()
    times = [counts.get(i, 0) for i in range(rows.count) if rows.labels[i]]
    assert 1 <= min(times) <= max(times) <= 12 * 1.2


def test_without_a_share_judged_rows_are_left_out(tmp_path: Path):
    rows = write_judged(tmp_path / "r")
    make_plan(rows, Recipe({"new": 1.0}, epochs=2, batch_tokens=300, max_steps=500), tmp_path / "p")
    assert max(Plan(tmp_path / "p").counts()) < 40
