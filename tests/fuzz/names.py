"""Targets: what callers write as names, uris, keys, page tokens and tokens of access."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random

from services.dataset.coco import CocoImage, Place
from services.gateway.blob_uris import BlobUris
from services.infra.auth import guard_of
from services.infra.jetstream_records import to_key, to_subject
from services.kit import names
from services.kit.blobs import check_key
from services.kit.errors import ProjectDenied, SightlineError, Unauthenticated
from services.kit.paging import encode_token, page
from services.kit.reach import Reach
from services.kit.records import check_record_key
from services.kit.roles import Role
from services.kit.settings import Settings
from sightline.blob_keys import fault_of_key
from sightline.client import keys
from tests.fuzz.mutations import mutated, mutated_json, name
from tests.fuzz.target import Execute, outcome_of, target
from tests.support.tokens import Issuer, publish, settings

PREFIXES = BlobUris.parse(
    "https://photos.blob.core.windows.net/c/=s3://sightline/uploads/c/,http://h=s3://sightline/shared"
)
REACH = Reach.parse("shared/,acme:own/")
COLLECTIONS = (("datasets",), ("models",), ("models", "trials"), ("models", "evaluations"), ("batchPredictions",))


@target
async def resource_names(_folder: Path) -> AsyncGenerator[Execute]:
    """Names of resources, which become keys of records and subjects of NATS, and back."""

    async def execute(random: Random) -> str:
        collections = random.choice(COLLECTIONS)
        valid = [
            part for collection in collections for part in (collection, random.choice(("a", "m.1", "x" * 255, "-")))
        ]
        text = name(random)
        if random.random() < 0.7:
            valid[random.randrange(len(valid))] = random.choice((name(random), "b..c", "0", "A_-."))
            text = "/".join(valid)

        def parse() -> None:
            ids = names.parse(text, *collections)
            key = check_record_key(names.join(*(part for pair in zip(collections, ids, strict=True) for part in pair)))
            assert to_key(to_subject(key)) == key, "a key survives as a subject"
            assert not set(" *>\t\r\n") & set(to_subject(key)), "a subject has no wildcard"

        return outcome_of(parse)

    yield execute


@target
async def uris(_folder: Path) -> AsyncGenerator[Execute]:
    """Uris and paths of callers, in requests, in COCO files and from Azure's clients; what is accepted stays inside."""

    async def execute(random: Random) -> str:
        text, project = name(random), random.choice(("default", "acme"))
        file = f"{names.root(project)}uploads/u/train.json"

        def inside(key: str) -> None:
            assert REACH.has(key, project), f"{text!r} leads to {key!r}"
            assert not fault_of_key(key), f"{text!r} leads to {key!r}"
            assert ".." not in key.split("/"), f"{text!r} leads to {key!r}"

        def of_a_request() -> None:
            inside(REACH.key(text, "sightline", project))

        def of_a_file() -> None:
            inside(Place(f"s3://sightline/{file}", file, "sightline", project, REACH).locate(CocoImage(1, text)))

        def of_a_field() -> None:
            inside(Place(f"s3://sightline/{file}", file, "sightline", project, REACH).locate(CocoImage(1, "", text)))

        def of_azure() -> None:
            inside(
                REACH.key(
                    PREFIXES.to_store(random.choice(("", "https://photos.blob.core.windows.net/c/")) + text),
                    "sightline",
                    project,
                )
            )

        def of_results() -> None:
            inside(REACH.folder(text, "sightline", project, to_write=random.random() < 0.5) + "a")

        kind = random.choice((of_a_request, of_a_file, of_a_field, of_azure, of_results))
        return outcome_of(kind, *((ValueError,) if kind in (of_a_file, of_a_field) else ()))

    yield execute


@target
async def blob_keys(folder: Path) -> AsyncGenerator[Execute]:
    """Keys of blobs, which are paths in a store of one folder."""

    async def execute(random: Random) -> str:
        key = name(random)

        def parse() -> None:
            path = folder / check_key(key)
            assert path.is_relative_to(folder), key
            assert path.resolve().is_relative_to(folder.resolve()), key

        return outcome_of(parse, ValueError)

    yield execute


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


@target
async def page_tokens(_folder: Path) -> AsyncGenerator[Execute]:
    """Page tokens and sizes of every list."""
    listed = [_Named(f"models/m{number}") for number in range(20)]
    seeds = [
        encode_token(scope, after).encode() for scope in ("models", "models/m/trials") for after in ("models/m3", "z")
    ]

    async def execute(random: Random) -> str:
        token = (
            mutated(random.choice(seeds), random, seeds).decode("latin-1") if random.random() < 0.7 else name(random)
        )
        size = random.choice((0, 1, 7, 1000, 2**31 - 1, -1, -(2**31)))
        return outcome_of(lambda: page(listed, "models", size, token))

    yield execute


@target
async def tokens(folder: Path) -> AsyncGenerator[Execute]:
    """Tokens and keys of callers: whoever is admitted has a token that was issued, with the roles that it was given."""
    issuer, stranger = Issuer("first"), Issuer("first")
    key, line = keys.make("ci", "viewer")
    (folder / "keys").write_text(line + "\n")
    known = settings(publish(folder / "jwks", issuer), auth_keys=folder / "keys")
    guard = guard_of(Settings(**known))
    assert guard
    issued = [key, *(issuer.token(role) for role in ("viewer", "admin", ["trainer", "viewer"]))]
    seeds = [one.encode() for one in (*issued, stranger.token("admin"), issuer.token("admin", exp=1))]

    async def execute(random: Random) -> str:
        token = random.choice(seeds).decode()
        head, *rest = token.split(".")
        if rest and random.random() < 0.5:
            parts = [json.loads(_decoded(part)) for part in (head, rest[0])]
            number = random.randrange(2)
            changed = base64.urlsafe_b64encode(mutated_json(parts[number], random)).rstrip(b"=").decode()
            token = ".".join((changed, *rest) if number == 0 else (head, changed, *rest[1:]))
        else:
            token = mutated(token.encode(), random, seeds, (b".", b"=", b"Bearer ", b"slk_")).decode("latin-1")
        scheme = random.choice(("Bearer", "Bearer", "bearer", "Basic", ""))
        try:
            caller = await guard.recognize("ListModels", [("authorization", f"{scheme} {token}")])
        except (Unauthenticated, ProjectDenied) as error:
            return _unquoted(error, token)
        owned = {_decoded(one.split(".")[1]) for one in issued[1:]}
        assert token.strip() == key or _decoded(token.split(".")[1]) in owned, f"admitted with {token!r}"
        assert caller.roles <= set(Role)
        return "accepted"

    yield execute


def _unquoted(error: SightlineError, token: str) -> str:
    """The error's name; AssertionError if it quotes the token."""
    assert token not in error.message or len(token) < 8, "an error quotes the token"
    return type(error).__name__


def _decoded(part: str) -> bytes:
    """A part of a token."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
