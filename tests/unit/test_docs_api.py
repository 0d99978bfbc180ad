"""docs/api.md names every rpc with its role, and lists every reason with its gRPC code; its service config is ours."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from services.kit.errors import Code, FailedPrecondition, SightlineError
from services.kit.roles import POLICY, Role
from sightline.client.transport.channel import service_config

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "api.md").read_text()
CONTRACT = {
    name: descriptor
    for path in (ROOT / "protos" / "sightline" / "v1").glob("*_service.proto")
    for name, descriptor in import_module(f"sightline.v1.{path.stem}_pb2").DESCRIPTOR.services_by_name.items()
}


def below(kind: type[SightlineError]) -> Iterator[type[SightlineError]]:
    """Every error of the tree."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def test_every_rpc_is_listed() -> None:
    listed = re.findall(r"^\| `sightline\.v1\.(\w+)` \|", DOCUMENT, re.MULTILINE)
    assert sorted(listed) == sorted(CONTRACT)
    for name, service in CONTRACT.items():
        row = re.search(rf"^\| `sightline\.v1\.{name}` \|[^|]*\|([^|]*)\|$", DOCUMENT, re.MULTILINE)
        assert row, f"{name} has no row"
        assert set(re.findall(r"\w+", row[1])) == {method.name for method in service.methods}


def test_every_rpc_is_listed_with_the_role_that_it_needs() -> None:
    chapter = DOCUMENT.partition("\n### Roles\n")[2].partition("\n## ")[0]
    listed = {
        Role(role): rpcs.split(", ")
        for role, rpcs in re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|$", chapter, re.MULTILINE)
    }
    real = {role: [rpc.rpartition("/")[2] for rpc, needed in POLICY.items() if needed is role] for role in Role}
    reflection = "ServerReflectionInfo"  # of two versions, and in the text instead of the table
    assert real[Role.VIEWER].count(reflection) == 2
    assert "Reflection needs the role viewer." in chapter
    assert {role: sorted(rpcs) for role, rpcs in listed.items()} == {
        role: sorted(rpc for rpc in rpcs if rpc != reflection) for role, rpcs in real.items()
    }


def test_the_service_config_is_that_of_our_client() -> None:
    documented = re.findall(r"^```json\n(\{\"loadBalancingConfig\".*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert [json.loads(text) for text in documented] == [json.loads(service_config())]


def test_every_reason_is_listed_with_its_code() -> None:
    listed: dict[str, set[str]] = defaultdict(set)
    for reasons, codes in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([A-Z_, ]+|any) \|", DOCUMENT, re.MULTILINE):
        for reason in re.findall(r"`(\w+)`", reasons):
            listed[reason] |= set(codes.split(", "))
    real: dict[str, set[str]] = defaultdict(set)
    for kind in below(SightlineError):
        if "reason" in vars(kind) and kind is not FailedPrecondition:  # that one is a branch, never raised
            real[kind.reason].add("any" if kind.reason == "RemoteError" else Code(kind.code).name)
    assert listed == real
