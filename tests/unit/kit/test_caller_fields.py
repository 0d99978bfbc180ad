"""What callers may write on a resource for their own use."""

import pytest

from services.kit.caller_fields import changes, check_caller_fields, check_request_id
from services.kit.errors import InvalidRequest

WIDE = "w" * 256


def test_values_at_the_limits_are_accepted() -> None:
    check_caller_fields("model", WIDE, {WIDE[n:]: WIDE for n in range(10)})
    assert check_request_id("r" * 128) == "r" * 128


@pytest.mark.parametrize(
    ("display_name", "properties", "field"),
    [
        (WIDE + "w", {}, "model.display_name"),
        ("", dict.fromkeys("abcdefghijk", ""), "model.custom_properties"),
        ("", {"": "a"}, "model.custom_properties"),
        ("", {WIDE + "w": "a"}, "model.custom_properties"),
        ("", {"a": WIDE + "w"}, "model.custom_properties"),
        ("\x1b[31mred", {}, "model.display_name"),
        ("a\u202eb", {}, "model.display_name"),
        ("", {"a\x9b": "b"}, "model.custom_properties"),
        ("", {"a": "b\u200b"}, "model.custom_properties"),
    ],
)
def test_values_beyond_the_limits_or_with_characters_that_are_not_seen_are_refused_with_their_field(
    display_name: str, properties: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_caller_fields("model", display_name, properties)
    assert caught.value.metadata["field"] == field


def test_an_update_changes_what_its_mask_names_or_without_a_mask_what_is_set() -> None:
    assert changes("model", [], "New", {}) == {"display_name": "New"}
    assert changes("model", ["custom_properties"], "New", {}) == {"custom_properties": {}}
    assert changes("model", ["display_name"], "", {"": "not looked at"}) == {"display_name": ""}
    with pytest.raises(InvalidRequest, match="state"):
        changes("model", ["state"], "New", {})
