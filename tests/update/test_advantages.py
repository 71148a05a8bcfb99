import pytest

from llmagentos.update.advantages import ADVANTAGES, group_normalised, has_spread, leave_one_out


def test_grpo_is_what_the_formula_says():
    assert group_normalised([1, 0, 0, 1]) == [1, -1, -1, 1]
    assert group_normalised([1, 0, 0, 0]) == pytest.approx([1.7320508, -0.5773503, -0.5773503, -0.5773503])


def test_rloo_is_what_the_formula_says():
    assert leave_one_out([1, 0, 0.3]) == pytest.approx([0.85, -0.65, -0.2])


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_of_a_group_sum_to_nothing(name: str):
    assert sum(ADVANTAGES[name]([0.3, 1, 0, 0, 0.3])) == pytest.approx(0)


@pytest.mark.parametrize(("rewards", "found"), [([1, 1, 1], False), ([0.3], False), ([], False), ([0, 0.3], True)])
def test_a_group_alike_or_of_one_has_no_spread(rewards: list[float], found: bool):
    assert has_spread(rewards) == found
