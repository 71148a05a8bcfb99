from llmagentos.scenarios.customer_service.shop import ATTRIBUTES, NEW_POLICIES, POLICIES, kinds, make_shop


def test_every_fact_has_twenty_likely_values_or_more():
    for name, values in (ATTRIBUTES | POLICIES | NEW_POLICIES).items():
        assert len(set(values)) >= 20, name


def test_a_day_changes_some_adds_some_and_leaves_most():
    before = make_shop(1)
    moved = list(kinds(before, before.drifted(3)).values())
    assert moved.count("changed") >= 10
    assert moved.count("new") >= 10
    assert moved.count("stay") > 0.7 * len(moved)


def test_the_same_seed_is_the_same_world_and_another_is_not():
    assert make_shop(1) == make_shop(1)
    assert make_shop(1) != make_shop(2)
    assert make_shop(1).drifted(1) != make_shop(1).drifted(2)
