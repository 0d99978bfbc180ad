"""Who may do what in NATS: one user per process, each with what it needs to publish and to hear, and no more.

`tools/manifests.py` writes the same users into deploy/, with passwords from the server's environment.
"""

import contextlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline.local import claims

RECORDS, JOBS, AUDIT = "KV_sightline_records", "SIGHTLINE_JOBS", "SIGHTLINE_AUDIT"
FILE = "passwords.json"  # next to the configuration of a local server
ADMIN = "admin"  # for people, and `sightline doctor`

# What each may write: parts of the subjects of records, and the kinds of jobs that it announces. `*` is an id in any
# project, because a subject has both in one part (`models.acme/m`).
WRITES: Mapping[str, Sequence[str]] = {
    "dataset-api": ("datasets.*", "uploads.*", "accounts.*", "holds.*"),
    "dataset-worker": ("datasets.*", "holds.*"),
    "trainer-api": ("models.>", "estimates.*", "accounts.*", "holds.*"),
    "trainer-worker": ("models.*.trials.*", "models.*.evaluations.*", "models.*.exports.*", "estimates.*"),
    "predictor": ("batchPredictions.*", "accounts.*", "holds.*"),
    "predictor-worker": ("batchPredictions.*",),
}
ANNOUNCES: Mapping[str, Sequence[str]] = {
    "dataset-api": ("ingest-dataset",),
    "dataset-worker": ("ingest-dataset", "ingest-chunk"),
    "trainer-api": ("trainer",),
    "trainer-worker": ("trainer",),
    "predictor": ("predict-batch",),
    "predictor-worker": ("predict-batch", "predict-chunk"),
}
TAKES: Mapping[str, Sequence[str]] = {
    "dataset-worker": ("ingest-dataset", "ingest-chunk"),
    "trainer-worker": ("trainer",),
    "predictor-worker": ("predict-batch", "predict-chunk"),
}
COUNTS: Mapping[str, Sequence[str]] = {
    "dataset-api": ("ingest-dataset", "ingest-chunk"),
    "trainer-api": ("trainer",),
    "predictor": ("predict-batch", "predict-chunk"),
}
# Who removes what deletions of records leave behind. It allows to purge any record, so the predictor, which has few to
# delete, leaves these bytes.
REMOVES = ("dataset-api", "dataset-worker", "trainer-api")
NOTES: Mapping[str, str] = {
    "dataset-api": "dataset",
    "trainer-api": "trainer",
    "predictor": "predictor",
}  # audit entries
READS_AUDIT = ("dataset-api",)  # answers ListAuditEvents
USERS = tuple(WRITES)


def publishes(user: str) -> list[str]:
    """The subjects to which a process may publish: records, jobs and audit entries, and its code's requests."""
    return [*_of_records(user), *_of_jobs(user), *_of_audit(user)]


def _of_records(user: str) -> list[str]:
    """The apis also follow them."""
    requests = [f"STREAM.INFO.{RECORDS}", f"STREAM.CREATE.{RECORDS}", f"STREAM.MSG.GET.{RECORDS}"]
    requests += [f"STREAM.PURGE.{RECORDS}"] if user in REMOVES else []
    follows = [] if user.endswith("-worker") else _follows(RECORDS)
    return [*(f"$KV.sightline_records.{subject}" for subject in WRITES[user]), *_requests(requests), *follows]


def _of_jobs(user: str) -> list[str]:
    takes, kinds = TAKES.get(user, ()), sorted({*TAKES.get(user, ()), *COUNTS.get(user, ())})
    if not kinds:
        return []
    requests = [f"STREAM.INFO.{JOBS}", f"STREAM.CREATE.{JOBS}"]
    for kind in kinds:
        verbs = ("CONSUMER.INFO", "CONSUMER.DURABLE.CREATE", "CONSUMER.CREATE")
        requests += [*(f"{verb}.{JOBS}.{kind}" for verb in verbs), f"CONSUMER.CREATE.{JOBS}.{kind}.jobs.{kind}"]
    requests += [f"CONSUMER.MSG.NEXT.{JOBS}.{kind}" for kind in takes]
    acks = (f"$JS.ACK.{JOBS}.{kind}.>" for kind in takes)
    return [*(f"jobs.{kind}" for kind in ANNOUNCES.get(user, ())), *_requests(requests), *acks]


def _of_audit(user: str) -> list[str]:
    """Entries can be added, by one user also read, but by none changed or removed."""
    if user not in NOTES:
        return []
    requests = _requests([f"STREAM.INFO.{AUDIT}", f"STREAM.CREATE.{AUDIT}"])
    return [f"audit.{NOTES[user]}", *requests, *(_follows(AUDIT) if user in READS_AUDIT else [])]


def _follows(stream: str) -> list[str]:
    """To receive a stream's messages in order."""
    verbs = (f"CREATE.{stream}", f"CREATE.{stream}.>", f"DELETE.{stream}.*")
    consumers = _requests([f"CONSUMER.{verb}" for verb in verbs])
    return [*consumers, f"$JS.FC.{stream}.>"]


def _requests(requests: Sequence[str]) -> list[str]:
    return [f"$JS.API.{request}" for request in requests]


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


def password_variable(user: str) -> str:
    """The variable in the environment of a server in deploy/ that has the user's password."""
    return f"{user.upper().replace('-', '_')}_PASSWORD"


def kept_passwords(file: Path) -> Mapping[str, str]:
    """The passwords in the file, which only its owner can read; a new one is made of what it lacks, or has damaged.

    A write that fails, as on a full disk, leaves the file as it was.
    """
    known: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        known = json.loads(file.read_text())
    passwords = {user: known.get(user) or secrets.token_urlsafe(24) for user in (*USERS, ADMIN)}
    if passwords != known:
        new = file.with_suffix(".new")
        claims.write(new, json.dumps(passwords))
        new.replace(file)
    return passwords


def _value(password: str) -> str:
    return password if password.startswith("$") else json.dumps(password)
