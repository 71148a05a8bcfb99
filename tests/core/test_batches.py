"""Texts of like length stand together, and no batch is larger than it may be."""

from llmagentos.core.batches import longest_first


def test_the_longest_come_first_and_each_batch_has_room_for_its_longest():
    words = ["a", "bbbb", "cc", "dddd", "", "ee"]
    assert list(longest_first(words, len, 8)) == [["bbbb", "dddd"], ["cc", "ee", "a", ""]]


def test_what_is_longer_than_a_batch_stands_alone():
    assert list(longest_first(["abc", "abcdef"], len, 2)) == [["abcdef"], ["abc"]]


def test_nothing_makes_no_batch():
    assert list(longest_first([], len, 8)) == []
