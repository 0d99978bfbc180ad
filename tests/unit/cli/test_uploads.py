"""`sightline uploads`."""

from sightline.v1.upload_pb2 import Upload
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes


def filled(fakes: Fakes) -> None:
    for number in range(3):
        name = f"uploads/u{number}"
        fakes.uploads[name] = Upload(name=name, owner="key:ann", file_count=7, size_bytes=2048, state=Upload.ACTIVE)


def test_uploads_are_listed_with_their_owner_and_size(sightline: Command, fakes: Fakes) -> None:
    filled(fakes)
    fakes.uploads["uploads/u1"].state = Upload.DELETING
    shown = sightline("uploads", "list")
    assert shown.code == 0, shown.err
    assert "key:ann" in shown.out
    assert "2.05 KB" in shown.out
    assert "is being deleted" in shown.out
    uploads = sightline("uploads", "list", "--json").json["uploads"]
    assert isinstance(uploads, list)
    assert [upload["name"] for upload in uploads] == ["uploads/u0", "uploads/u1", "uploads/u2"]


def test_an_upload_is_deleted_by_its_bare_or_full_name(sightline: Command, fakes: Fakes) -> None:
    filled(fakes)
    assert sightline("uploads", "delete", "u0").out == "deleted uploads/u0\n"
    assert sightline("uploads", "delete", "uploads/u1", "--json").json == {}
    assert list(fakes.uploads) == ["uploads/u2"]
    missing = sightline("uploads", "delete", "u9")
    assert (missing.code, "`sightline uploads list` prints the uploads that exist" in missing.err) == (5, True)
