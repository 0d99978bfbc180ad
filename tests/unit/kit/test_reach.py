"""Which blobs a caller's uris may name."""

import pytest

from services.kit.errors import UnreadableUri
from services.kit.reach import RESERVED, Reach


def test_by_default_only_the_uploads_of_the_project_are_in_reach():
    reach = Reach()
    assert reach.has("uploads/u/a.png", "default")
    assert reach.has("projects/acme/uploads/u/a.png", "acme")
    for key in ("uploads/u/a.png", "projects/umbrella/uploads/u/a", "projects/acme/models/m/1/x", "a.png"):
        assert not reach.has(key, "acme")
    for key in ("projects/acme/uploads/u/a.png", "datasets/d/x", "uploads", "uploadsx/u/a"):
        assert not reach.has(key, "default")


def test_an_operator_opens_prefixes_to_all_or_to_one_project():
    reach = Reach.parse(" shared/, acme:archive/2026/ ")
    assert reach.has("shared/a.png", "acme")
    assert reach.has("shared/a.png", "default")
    assert reach.has("archive/2026/a.png", "acme")
    for key in ("archive/2026/a.png", "sharedx/a", "archive/2025/a"):
        assert not reach.has(key, "umbrella")


@pytest.mark.parametrize("root", RESERVED)
def test_what_the_services_keep_for_themselves_stays_closed(root: str):
    assert not Reach.parse("*").has(f"{root}/x/y", "acme")
    with pytest.raises(ValueError, match="is not a prefix"):
        Reach.parse(f"{root}/x/")


def test_everything_else_can_be_opened():
    assert Reach.parse("*").has("a.png", "acme")
    assert Reach.parse("acme:*").has("b/a.png", "acme")
    assert not Reach.parse("acme:*").has("b/a.png", "umbrella")


@pytest.mark.parametrize("wrong", ["shared", "/shared/", "a/../b/", "Acme:shared/", "acme:", ":shared/", "a//b/"])
def test_a_malformed_prefix_is_refused(wrong: str):
    with pytest.raises(ValueError, match="is not a prefix"):
        Reach.parse(f"fine/,{wrong}")


def test_the_refusal_of_a_uri_does_not_depend_on_the_store():
    with pytest.raises(UnreadableUri, match=r"'s3://b/x/y': it is not in an upload of the project"):
        Reach().key("s3://b/x/y", "b", "acme")
    assert Reach().key("s3://b/projects/acme/uploads/u/y", "b", "acme") == "projects/acme/uploads/u/y"


def test_a_folder_is_open_if_all_below_it_is():
    reach = Reach.parse("shared/photos/,acme:archive/")
    for uri in ("s3://b/shared/photos", "s3://b/shared/photos/", "s3://b/shared/photos/2026"):
        assert reach.folder(uri, "b", "umbrella").startswith("shared/photos/")
    assert reach.folder("s3://b/projects/acme/uploads/u", "b", "acme") == "projects/acme/uploads/u/"
    for uri in ("s3://b/shared", "s3://b/shared/pho", "s3://b/archive", "s3://b/projects/acme/uploads/u", "s3://b"):
        with pytest.raises(UnreadableUri):
            reach.folder(uri, "b", "umbrella")


def test_uploads_are_open_to_read_only():
    reach = Reach.parse("results/")
    assert reach.folder("s3://b/results/run", "b", "default", to_write=True) == "results/run/"
    with pytest.raises(UnreadableUri, match=r"open for results\. Leave it out, or ask the operator"):
        reach.folder("s3://b/uploads/u", "b", "default", to_write=True)
