"""Resource names parse into the ids that they were joined from, and anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.blobs import check_key, from_uri, to_uri
from services.kit.errors import InvalidName, UnreadableUri
from services.kit.names import ID_PATTERN, check_alias, check_id, check_model, is_alias, join, new_uid, parse

ids = st.from_regex(ID_PATTERN.replace("$", r"\Z"))


@given(ids, ids)
def test_a_joined_name_parses_into_its_ids(model: str, trial: str) -> None:
    name = join("models", model, "trials", trial)
    assert parse(name, "models", "trials") == (model, trial)


@given(st.text())
def test_an_invalid_id_is_refused_with_its_field(text: str) -> None:
    ok = 0 < len(text) <= 255 and text.isascii() and text[0].isalnum() and all(c.isalnum() or c in "._-" for c in text)
    if ok:
        assert check_id(text, "model_id") == text
    else:
        with pytest.raises(InvalidName, match="model_id") as refused:
            check_id(text, "model_id")
        assert refused.value.metadata["field"] == "model_id"


@pytest.mark.parametrize(
    "name", ["", "models", "models/", "models/a/b", "datasets/a", "models/a/trials/", "models/-a/trials/t", "/models/a"]
)
def test_a_malformed_name_is_refused_with_the_expected_form(name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        parse(name, "models", "trials", field="parent")
    assert refused.value.metadata["field"] == "parent"
    with pytest.raises(InvalidName, match=r"models/\{model\}/trials/\{trial\}"):
        parse("x", "models", "trials")


@given(ids, st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True))
def test_an_alias_is_a_models_name_and_a_word(model: str, alias: str) -> None:
    name = f"models/{model}@{alias}"
    assert is_alias(name)
    assert check_alias(name) == check_model(name) == name
    with pytest.raises(InvalidName):
        parse(name, "models")


@pytest.mark.parametrize("name", ["models/a@", "models/@b", "models/a@B", "models/a@-b", "models/a@b@c", "a@b", "@"])
def test_a_malformed_alias_is_refused_with_the_expected_form(name: str) -> None:
    with pytest.raises(InvalidName, match="alias") as refused:
        check_model(name, "model_name")
    assert refused.value.metadata["field"] == "model_name"


def test_uids_do_not_repeat() -> None:
    assert len({new_uid() for _ in range(1000)}) == 1000


keys = st.lists(st.text("ab.-_ %ä/", min_size=1).filter(lambda p: p not in (".", "..") and "/" not in p), min_size=1)


@given(keys.map("/".join))
def test_a_uri_parses_into_the_key_it_was_made_from(key: str) -> None:
    assert from_uri(to_uri("sightline", key), "sightline") == key


@given(st.text())
def test_no_uri_leads_out_of_the_bucket(text: str) -> None:
    for uri in (text, f"s3://sightline/{text}"):
        try:
            key = from_uri(uri, "sightline")
        except UnreadableUri:
            continue
        assert check_key(key) == key
        assert not {"", ".", ".."} & set(key.split("/"))


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("birds/1.jpg", "no scheme"),
        ("https://example.com/a.jpg", "scheme 'https'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("s3://other/a.jpg", "bucket 'other'"),
        ("s3://sightline/../a", r"'\.\.' part"),
        ("s3://sightline/", "empty"),
        ("s3://sightline", "empty"),
    ],
)
def test_a_uri_outside_the_store_is_refused_with_the_reason(uri: str, problem: str) -> None:
    with pytest.raises(UnreadableUri, match=problem) as refused:
        from_uri(uri, "sightline")
    assert refused.value.metadata["uri"] == uri
