"""The material is large enough to guess wrong in, and complete."""

import pytest

from llmagentos.scenarios.streams.family import FAMILIES, Family


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_material_is_varied(family: Family):
    assert all(len(set(values)) >= 20 for values in family.attributes.values())
    assert len(family.questions) >= 4
    assert len(set(family.devices)) == len(family.devices) == 11
    assert all("{p}" in frame and "{a}" in frame for frame in family.questions)
    assert set(family.wordings) in (set(), set(family.attributes))
    assert all("{p}" in frame for frames in family.wordings.values() for frame in frames)
    shortest = min(len(frames) for frames in (family.nexts, *map(family.asked, family.attributes)))
    assert not family.taught or family.taught < shortest - 1
    assert all(all(part in frame for part in ("{d}", "{r}", "{s}")) for frame in family.commands)
    assert len(set(family.arguments)) == 3
