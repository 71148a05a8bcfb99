import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.core.errors import TrainingError
from llmagentos.training.plan import Recipe, least_steps, make_plan
from llmagentos.training.rows import ROWS, Plan, Rows, record_batch, write_arrow

MIX = {"new": 0.5, "memory": 0.4, "general": 0.1}


def write_rows(path: Path, counts: dict[str, int], *, seed: int = 0, longest: int = 40) -> Rows:
    """Rows of each source; those of "made" are new ones too, each with the answer of one of "new"."""
    rng = np.random.default_rng(seed)
    made = []
    for source, count in counts.items():
        for k in range(count):
            length = int(rng.integers(4, longest))
            answer = made[k % counts["new"]]["ids"][-2:] if source == "made" else [length - 2, length - 1]
            mask = [0] * (length - 2) + [1, 1]
            made.append(
                {
                    "id": f"{source}{k}",
                    "source": "new" if source == "made" else source,
                    "made": source == "made",
                    "stratum": "s",
                    "ids": [*range(length - 2), *answer],
                    "mask": mask,
                }
            )
    write_arrow(path, [record_batch(made, ROWS)], ROWS)
    return Rows(path)


def test_every_new_row_is_planned_and_the_ratio_is_as_asked(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 200, "memory": 500, "general": 300})
    facts = make_plan(rows, Recipe(MIX, epochs=5, batch_tokens=256, max_steps=10_000), tmp_path / "p")
    counts = Plan(tmp_path / "p").counts()
    assert all(counts.get(i, 0) >= 4 for i in range(200))
    assert facts.ratio["new"] == pytest.approx(0.5, abs=0.03)
    assert facts.ratio["memory"] == pytest.approx(0.4, abs=0.03)


def test_a_missing_source_gives_its_share_to_the_others(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 100, "memory": 100})
    facts = make_plan(rows, Recipe(MIX, epochs=6, batch_tokens=256, max_steps=10_000), tmp_path / "p")
    assert facts.ratio["new"] == pytest.approx(5 / 9, abs=0.03)


def near_rows(path: Path, new: int, close: int) -> Rows:
    """`new` rows, `close` remembered ones that ask the same, and 200 that ask something else."""

    def made(name: str, source: str, prompt: list[int]) -> dict[str, object]:
        return {"id": name, "source": source, "stratum": "s", "ids": [*prompt, 1, 2], "mask": [0] * len(prompt) + [1, 1]}

    rows = [made(f"n{k}", "new", [500 + k, 600 + k]) for k in range(new)]
    rows += [made(f"c{k}", "memory", [500 + k, 600 + k]) for k in range(close)]
    rows += [made(f"f{k}", "memory", [1000 + k, 3000 + k]) for k in range(200)]
    write_arrow(path, [record_batch(rows, ROWS)], ROWS)
    return Rows(path)


@pytest.mark.parametrize(("near", "least", "most"), [(0.5, 0.45, 0.6), (0.0, 0.0, 0.1)])
def test_the_nearest_rows_of_memory_have_their_share_of_it(tmp_path: Path, near: float, least: float, most: float):
    rows = near_rows(tmp_path / "r", new=40, close=12)
    make_plan(rows, Recipe(MIX, epochs=20, batch_tokens=64, max_steps=10_000, near=near), tmp_path / "p")
    counts = Plan(tmp_path / "p").counts()
    taken = [sum(counts.get(i, 0) for i in span) for span in (range(40, 52), range(52, rows.count))]
    assert least <= taken[0] / sum(taken) <= most


def test_few_near_rows_are_asked_twice_a_pass_at_most(tmp_path: Path):
    rows = near_rows(tmp_path / "r", new=40, close=2)
    facts = make_plan(rows, Recipe(MIX, epochs=20, batch_tokens=64, max_steps=10_000, near=0.5), tmp_path / "p")
    counts = Plan(tmp_path / "p").counts()
    assert max(counts[i] for i in (40, 41)) <= 3 * facts.epochs + 3  # and once more, with all the others


def test_the_past_fills_what_a_small_increment_leaves_of_the_least_steps(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 10, "memory": 300, "general": 300})
    recipe = Recipe(MIX, epochs=8, batch_tokens=256, max_steps=500, min_steps=100)
    facts = make_plan(rows, recipe, tmp_path / "p")
    assert facts.steps == 100
    assert 60 <= facts.rows["new"] <= 100  # eight passes over ten rows, not a half of all tokens
    assert facts.tokens["memory"] == pytest.approx(4 * facts.tokens["general"], rel=0.1)
    alone = write_rows(tmp_path / "a", {"new": 10})
    assert make_plan(alone, recipe, tmp_path / "q").steps == 100


def test_made_wordings_take_the_place_of_repetitions(tmp_path: Path):
    plain = write_rows(tmp_path / "r", {"new": 20, "memory": 300})
    both = write_rows(tmp_path / "b", {"new": 20, "made": 60, "memory": 300})
    recipe = Recipe(MIX, epochs=24, batch_tokens=256, max_steps=10_000)
    first, second = (make_plan(rows, recipe, tmp_path / "p") for rows in (plain, both))
    assert first.steps == pytest.approx(second.steps, rel=0.25)
    whole = make_plan(both, replace(recipe, by_size=True), tmp_path / "q")
    assert whole.steps > 3 * second.steps
    counts = Plan(tmp_path / "p").counts()
    assert sum(counts.get(i, 0) for i in range(80)) == pytest.approx(24 * 20, rel=0.15)


def test_made_wordings_never_make_more_steps_than_the_rows_they_stand_for(tmp_path: Path):
    said, both = (write_rows(tmp_path / n, c) for n, c in (("s", {"new": 300}), ("b", {"new": 300, "made": 1700})))
    recipe = Recipe({"new": 1.0}, epochs=24, batch_tokens=256, max_steps=100, min_epochs=3.0)
    alone, beside = (make_plan(rows, recipe, tmp_path / "p").steps for rows in (said, both))
    assert alone <= beside <= 1.1 * alone
    counts = Plan(tmp_path / "p").counts()
    assert all(counts.get(i, 0) >= 1 for i in range(300)), "what was said is never left out"
    assert 700 < sum(i >= 300 for i in counts) < 1000, "wordings take the place of the further passes"


def test_the_realised_shares_of_each_step_add_up_to_those_of_the_run(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 60, "memory": 90, "general": 30})
    facts = make_plan(rows, Recipe(MIX, epochs=4, batch_tokens=256, max_steps=10_000, ranks=2, accumulation=2), tmp_path / "p")
    plan = Plan(tmp_path / "p")
    shares = plan.shares(rows)
    assert len(shares) == facts.steps
    assert all(sum(step.values()) == pytest.approx(1) for step in shares)
    assert min(step.get("new", 0.0) for step in shares) == pytest.approx(facts.worst_step, abs=1e-6)
    by_hand: dict[str, int] = {}
    for rank in (0, 1):
        for micro in plan.micro_batches(rows, rank):
            if micro.step == 0:
                for ids, source in zip(micro.ids, micro.sources, strict=True):
                    by_hand[source] = by_hand.get(source, 0) + len(ids)
    assert shares[0] == pytest.approx({s: n / sum(by_hand.values()) for s, n in by_hand.items()})


def test_nothing_new_is_an_error(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"memory": 10})
    with pytest.raises(TrainingError, match="nothing to update on"):
        make_plan(rows, Recipe(MIX, epochs=1, batch_tokens=64, max_steps=10), tmp_path / "p")


def test_the_step_cap_never_cuts_the_least_passes(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 300})
    make_plan(rows, Recipe({"new": 1.0}, epochs=9, batch_tokens=128, max_steps=2, min_epochs=2), tmp_path / "p")
    assert min(Plan(tmp_path / "p").counts().values()) >= 1


def test_one_new_row_among_many_old_ones_is_never_cut_away(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 1, "memory": 11}, seed=1)
    make_plan(rows, Recipe(MIX, epochs=2, batch_tokens=126, max_steps=500, ranks=2, seed=1), tmp_path / "p")
    assert Plan(tmp_path / "p").counts()[0] >= 1


def test_a_skill_of_few_rows_is_not_drowned(tmp_path: Path):
    many = [{"id": f"m{k}", "source": "memory", "stratum": "many", "ids": [1] * 10, "mask": [0] * 8 + [1, 1]} for k in range(900)]
    few = [{**row, "id": f"f{k}", "stratum": "few"} for k, row in enumerate(many[:9])]
    new = [{**row, "id": f"n{k}", "source": "new"} for k, row in enumerate(many[:60])]
    write_arrow(tmp_path / "r", [record_batch([*many, *few, *new], ROWS)], ROWS)
    make_plan(Rows(tmp_path / "r"), Recipe(MIX, epochs=6, batch_tokens=200, max_steps=500), tmp_path / "p")
    counts = Plan(tmp_path / "p").counts()
    drawn = [sum(counts.get(i, 0) for i in span) / len(span) for span in (range(900), range(900, 909))]
    assert drawn[1] > 3 * drawn[0]


@settings(max_examples=25, deadline=None)
@given(
    new=st.integers(1, 60), memory=st.integers(0, 60), ranks=st.integers(1, 3), accumulation=st.integers(1, 3),
    tokens=st.integers(16, 300), seed=st.integers(0, 5), packed=st.booleans(),
)  # fmt: skip
def test_ranks_have_the_same_number_of_steps_and_know_the_step_s_tokens(
    tmp_path_factory: pytest.TempPathFactory, new: int, memory: int, ranks: int, accumulation: int, tokens: int, seed: int,
    packed: bool,
):  # fmt: skip
    folder = tmp_path_factory.mktemp("plan")
    rows = write_rows(folder / "r", {"new": new, "memory": memory}, seed=seed)
    parts = {"ranks": ranks, "accumulation": accumulation, "packed": packed}
    recipe = Recipe(MIX, epochs=2, batch_tokens=tokens, max_steps=500, seed=seed, **parts)
    facts = make_plan(rows, recipe, folder / "p")
    plan = Plan(folder / "p")
    per_rank = [list(plan.micro_batches(rows, r)) for r in range(ranks)]
    assert {len(batches) for batches in per_rank} == {facts.steps * accumulation}
    for step in range(facts.steps):
        here = [b for batches in per_rank for b in batches if b.step == step]
        supervised = sum(int(m[1:].sum()) for b in here for m in b.mask)
        assert {b.step_tokens for b in here} == {supervised}
    capacity = tokens // (ranks * accumulation)
    for batch in (b for batches in per_rank for b in batches):
        sizes = [len(i) for i in batch.ids]
        assert len(sizes) == 1 or (sum(sizes) if packed else len(sizes) * max(sizes)) <= capacity


def test_the_same_seed_gives_the_same_plan_and_resuming_is_a_look_up(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 80, "memory": 80})
    recipe = Recipe(MIX, epochs=3, batch_tokens=128, max_steps=500)
    make_plan(rows, recipe, tmp_path / "a")
    make_plan(rows, recipe, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    plan = Plan(tmp_path / "a")
    whole = [b.indices for b in plan.micro_batches(rows, 0)]
    assert [b.indices for b in plan.micro_batches(rows, 0, start=3)] == whole[3:]


def test_packed_micro_batches_are_full(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 400})
    make_plan(rows, Recipe({"new": 1.0}, epochs=3, batch_tokens=400, max_steps=99, packed=True), tmp_path / "p")
    sizes = [sum(len(i) for i in b.ids) for b in Plan(tmp_path / "p").micro_batches(rows, 0)]
    assert sorted(sizes)[len(sizes) // 2] > 360


def test_a_skill_of_few_rows_has_its_share_where_skills_share_evenly(tmp_path: Path):
    made = []
    for source, stratum, count in (("new", "s", 100), ("general", "large", 900), ("general", "small", 6)):
        for k in range(count):
            made.append(
                {"id": f"{stratum}{k}", "source": source, "stratum": stratum, "ids": list(range(10)), "mask": [0] * 8 + [1] * 2}
            )
    write_arrow(tmp_path / "r", [record_batch(made, ROWS)], ROWS)
    rows, share = Rows(tmp_path / "r"), {"new": 0.5, "general": 0.5}
    recipe = Recipe(share, epochs=8, batch_tokens=250, max_steps=500)

    def small(even: tuple[str, ...], **need: float) -> float:
        recipe_now = replace(recipe, even=even, need={f"general/{name}": more for name, more in need.items()})
        make_plan(rows, recipe_now, tmp_path / "p")
        counts = Plan(tmp_path / "p").counts()
        of = {name: sum(n for i, n in counts.items() if rows.strata[i] == name) for name in ("large", "small")}
        return of["small"] / sum(of.values())

    # By √: 2.4 of 32.4, but no less than a third of an even half.
    assert small(("general",)) == pytest.approx(1 / 6 / (1 / 6 + 30 / 32.45), abs=0.02)
    assert small(()) < 0.1
    # What is held less firmly is asked more often; what is known by heart keeps its floor.
    assert small(("general",), small=3.0, large=1.0) == pytest.approx(3 * 2.45 / (3 * 2.45 + 30), abs=0.02)
    assert small(("general",), small=0.0, large=0.1) == pytest.approx(1 / 6 / (1 / 6 + 1), abs=0.02)
    assert small(("general",), small=0.0, large=0.0) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("loose", "share"),
    [({}, 0.5), ({"weak": 3.0, "firm": 1.0}, 0.75), ({"weak": 1.0, "firm": 0.0}, 0.86), ({"weak": 9.0}, 0.5),  # of one alone
     ({"weak": 0.0, "firm": 0.0}, 0.5)],
)  # fmt: skip
@pytest.mark.parametrize("apart", ["skill", "answer"])
def test_what_is_remembered_loosely_is_drawn_more_often(tmp_path: Path, loose: dict[str, float], share: float, apart: str):
    """Two questions, of two skills or of one, which are told apart by their answers."""

    def row(name: str, k: int, source: str, answer: int) -> dict[str, object]:
        skill = name if apart == "skill" or source == "new" else "both"
        return {"id": f"{name}{k}", "source": source, "stratum": skill, "ids": [*range(9), answer], "mask": [0] * 9 + [1]}

    kinds = [("n", "new", 7, 100), ("weak", "memory", 8, 2000), ("firm", "memory", 9, 2000)]
    made = [row(name, k, source, answer) for name, source, answer, count in kinds for k in range(count)]
    write_arrow(tmp_path / "r", [record_batch(made, ROWS)], ROWS)
    rows = Rows(tmp_path / "r")
    wanted = {rows.names.index(f"{name}7"): more for name, more in loose.items()}
    recipe = Recipe({"new": 0.5, "memory": 0.5}, epochs=8, batch_tokens=250, max_steps=500, loose=wanted)
    make_plan(rows, recipe, tmp_path / "p")
    counts = Plan(tmp_path / "p").counts()
    drawn = {name: sum(n for i, n in counts.items() if rows.names[i].startswith(name)) for name in ("weak", "firm")}
    assert drawn["weak"] / sum(drawn.values()) == pytest.approx(share, abs=0.06)


def test_made_wordings_of_one_skill_take_nothing_from_another(tmp_path: Path):
    def row(name: str, source: str, stratum: str) -> dict[str, object]:
        return {"id": name, "source": source, "stratum": stratum, "ids": list(range(10)), "mask": [0] * 8 + [1] * 2}

    said = [row(f"{stratum}{k}", "memory", stratum) for stratum in ("plain", "reworded") for k in range(100)]
    made = [row(f"w{k}", "memory", "reworded") | {"made": True} for k in range(700)]
    new = [row(f"n{k}", "new", "s") for k in range(60)]
    write_arrow(tmp_path / "r", [record_batch([*new, *said, *made], ROWS)], ROWS)
    rows = Rows(tmp_path / "r")
    make_plan(rows, Recipe({"new": 0.5, "memory": 0.5}, epochs=20, batch_tokens=250, max_steps=500), tmp_path / "p")
    asked = {"plain": 0, "reworded": 0}
    for index, times in Plan(tmp_path / "p").counts().items():
        if rows.sources[index] == "memory":
            asked[rows.strata[index]] += times
    assert asked["plain"] / sum(asked.values()) > 0.4


def test_a_question_comes_as_often_as_it_was_said_in_however_many_wordings(tmp_path: Path):
    """Of two questions that were said twice each, one has 18 made wordings; a third was said once."""

    def made(name: str, answer: int, k: int) -> dict[str, object]:
        return {"id": name, "source": "new", "stratum": "s", "ids": [1, 2, 3, k, answer], "mask": [0, 0, 0, 0, 1]}

    rows = [made(f"a{k}", 90, k) for k in range(2)] + [made(f"w{k}", 90, 20 + k) | {"made": True} for k in range(18)]
    rows += [made(f"b{k}", 91, 50 + k) for k in range(2)] + [made("c", 92, 60)]
    write_arrow(tmp_path / "r", [record_batch(rows, ROWS)], ROWS)
    facts = make_plan(Rows(tmp_path / "r"), Recipe({"new": 1}, epochs=200, batch_tokens=20, max_steps=10_000), tmp_path / "p")
    counts = Plan(tmp_path / "p").counts()
    first, second, third = (sum(counts.get(i, 0) for i in some) for some in (range(20), range(20, 22), range(22, 23)))
    assert facts.rows["new"] == pytest.approx(200 * 5, rel=0.1)
    assert first / second == pytest.approx(1, abs=0.15)
    assert second / third == pytest.approx(2, abs=0.2)
    assert all(counts.get(i, 0) > 0 for i in range(23))


def test_a_home_without_a_past_is_not_taught_a_few_rows_hundreds_of_times(tmp_path: Path):
    alone, seeded = (write_rows(tmp_path / n, c) for n, c in (("a", {"new": 10, "made": 90}), ("s", {"new": 10, "general": 900})))
    said = int(alone.lengths[:10].sum())
    assert least_steps(alone, 600, passes=8, batch_tokens=256) == math.ceil(32 * said / 256)
    assert least_steps(seeded, 600, passes=8, batch_tokens=256) == 600


def test_a_made_wording_of_what_was_never_said_is_not_trained_on(tmp_path: Path):
    """What was said was too long: there is nothing new, or it is left out."""
    rows = [
        {"id": f"{kind}{k}", "source": kind, "stratum": "s", "made": kind == "new", "ids": [1, 2, k], "mask": [0, 0, 1]}
        for kind in ("new", "memory")
        for k in range(4)
    ]
    write_arrow(tmp_path / "r", [record_batch(rows, ROWS)], ROWS)
    recipe = Recipe(MIX, epochs=6, batch_tokens=256, max_steps=10)
    assert Rows(tmp_path / "r").tokens() == {"memory": 12}
    with pytest.raises(TrainingError, match="no new row"):
        make_plan(Rows(tmp_path / "r"), recipe, tmp_path / "p")
    said = {**rows[0], "id": "said", "made": False}
    write_arrow(tmp_path / "r", [record_batch([*rows, said], ROWS)], ROWS)
    make_plan(Rows(tmp_path / "r"), recipe, tmp_path / "p")
    assert {0, 8} <= Plan(tmp_path / "p").counts().keys()
    assert not {1, 2, 3} & Plan(tmp_path / "p").counts().keys()
