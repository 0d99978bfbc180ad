"""Who may do what in NATS: one user per process, each with what it needs to publish and to hear, and no more.

The manifests in deploy/ have the same users, with passwords from their environment.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

RECORDS, JOBS = "KV_sightline_records", "SIGHTLINE_JOBS"
FILE = "passwords.json"  # next to the configuration of a local server
ADMIN = "admin"  # for people, and `sightline doctor`

# What each may write: parts of the subjects of records, and the kinds of jobs that it announces.
WRITES: Mapping[str, Sequence[str]] = {
    "dataset-api": ("datasets.*", "uploads.*", "accounts.*"),
    "dataset-worker": ("datasets.*",),
    "trainer-api": ("models.>", "estimates.*", "accounts.*"),
    "trainer-worker": ("models.*.trials.*", "models.*.evaluations.*", "estimates.*"),
}
ANNOUNCES: Mapping[str, Sequence[str]] = {
    "dataset-api": ("ingest-dataset",),
    "dataset-worker": ("ingest-dataset", "ingest-chunk"),
    "trainer-api": ("trainer",),
}
TAKES: Mapping[str, Sequence[str]] = {
    "dataset-worker": ("ingest-dataset", "ingest-chunk"),
    "trainer-worker": ("trainer",),
}
COUNTS: Mapping[str, Sequence[str]] = {
    "dataset-api": ("ingest-dataset", "ingest-chunk"),
    "trainer-api": ("trainer",),
}
REMOVES = ("dataset-api", "dataset-worker", "trainer-api")  # records, with what deletions leave behind
USERS = tuple(WRITES)


def publishes(user: str) -> list[str]:
    """The subjects to which a process may publish: records and jobs, and the requests that its code makes."""
    kinds = {*TAKES.get(user, ()), *COUNTS.get(user, ())}
    api = [f"STREAM.{request}.{stream}" for stream in (RECORDS, JOBS) for request in ("INFO", "CREATE")]
    api += [f"STREAM.MSG.GET.{RECORDS}"]
    if user.endswith("-api"):  # these follow the records
        api += [f"CONSUMER.CREATE.{RECORDS}", f"CONSUMER.CREATE.{RECORDS}.>"]
    if user in REMOVES:
        api += [f"STREAM.PURGE.{RECORDS}"]
    for kind in sorted(kinds):
        requests = ("CONSUMER.INFO", "CONSUMER.DURABLE.CREATE", "CONSUMER.CREATE")
        api += [f"{request}.{JOBS}.{kind}" for request in requests] + [f"CONSUMER.CREATE.{JOBS}.{kind}.jobs.{kind}"]
    api += [f"CONSUMER.MSG.NEXT.{JOBS}.{kind}" for kind in TAKES.get(user, ())]
    return [
        *(f"$KV.sightline_records.{subject}" for subject in WRITES[user]),
        *(f"jobs.{kind}" for kind in ANNOUNCES.get(user, ())),
        *(f"$JS.API.{request}" for request in api),
        *(f"$JS.ACK.{JOBS}.{kind}.>" for kind in TAKES.get(user, ())),
        *([f"$JS.FC.{RECORDS}.>"] if user.endswith("-api") else []),
    ]


def inbox_prefix(user: str) -> str:
    """Where a user's answers arrive; nobody else may listen there."""
    return f"_INBOX_{user}"


def authorization(passwords: Mapping[str, str]) -> str:
    """The block of a server's configuration; a password is quoted text, or the name of a variable such as `$ADMIN`."""
    lines = ["authorization {", "  users = ["]
    for user in USERS:
        lines += [f"    {{user: {user}, password: {_value(passwords[user])}, permissions: {{", "      publish: ["]
        lines += [f"        {json.dumps(subject)}" for subject in publishes(user)]
        lines += ["      ]", f'      subscribe: ["{inbox_prefix(user)}.>"]', "    }}"]
    lines += [f"    {{user: {ADMIN}, password: {_value(passwords[ADMIN])}}}", "  ]", "}", ""]
    return "\n".join(lines)


def kept_passwords(file: Path) -> Mapping[str, str]:
    """The passwords in the file, which only its owner can read; a new one is made of what it lacks."""
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    passwords = {user: known.get(user) or secrets.token_urlsafe(24) for user in (*USERS, ADMIN)}
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as target:  # noqa: PTH123 - a new file's mode
        json.dump(passwords, target)
    return passwords


def _value(password: str) -> str:
    return password if password.startswith("$") else json.dumps(password)
