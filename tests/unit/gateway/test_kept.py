"""What the gateway keeps in memory to use it again."""

from services.gateway.kept import Kept


def test_the_least_recently_used_go_first():
    kept = Kept[str, int](100)
    kept.put("a", 1, 40)
    kept.put("b", 2, 40)
    assert kept.get("a") == 1
    kept.put("c", 3, 40)
    assert [kept.get(key) for key in "abc"] == [1, None, 3]


def test_a_value_that_takes_another_one_s_place_counts_once():
    kept = Kept[str, int](100)
    for value in range(10):
        kept.put("a", value, 40)
    kept.put("b", 2, 60)
    assert [kept.get(key) for key in "ab"] == [9, 2]


def test_a_value_that_is_larger_than_the_limit_is_not_kept():
    kept = Kept[str, int](100)
    kept.put("a", 1, 101)
    assert kept.get("a") is None
    kept.put("b", 2, 100)
    assert kept.get("b") == 2
