"""What a person reads when a command fails, and the exit code that a script gets.

0        it worked                    2        used wrongly: the message says how it is meant
1        a fault of this machine      3 .. 16  the number of the gRPC status code: 3 INVALID_ARGUMENT,
130      Ctrl-C                                5 NOT_FOUND, 6 ALREADY_EXISTS, 9 FAILED_PRECONDITION,
                                               14 UNAVAILABLE, ... (a resource that ended as FAILED: of its error)
"""

import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from rich.console import Console
from rich.markup import escape

from sightline.cli.formats import bare_name, duration
from sightline.client.addresses import VARIABLES, AddressError, Addresses
from sightline.client.credentials import Credentials, CredentialsError
from sightline.client.diagnosis import diagnose, place_of
from sightline.client.stubs import status_code

CONNECT_SECONDS = 1.0
MAX_VIOLATIONS = 10
USED_WRONGLY = 2
UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]
UNANSWERED = (UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
PLAIN = Credentials()

M = TypeVar("M", bound=Message)


class CommandError(Exception):
    """A command cannot go on; rendered without a traceback."""

    def __init__(self, message: str, *, fix: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.fix, self.code = fix, code


class ResourceFailed(Exception):
    """A resource that was waited for ended as FAILED."""

    def __init__(self, name: str, status: Status) -> None:
        super().__init__(f"{name} failed")
        self.name, self.status = name, status


def report(error: Exception, console: Console, addresses: Addresses, credentials: Credentials = PLAIN) -> int:
    """Says on the console what is wrong and what to do; returns the exit code."""
    if isinstance(error, CredentialsError | AddressError):
        error = CommandError(str(error), code=USED_WRONGLY)
    if isinstance(error, CommandError):
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        _print_fix(console, error.fix)
        return error.code
    if isinstance(error, ResourceFailed):
        console.print(f"[bold red]{escape(error.name)} failed[/]", soft_wrap=True)
        return report_status(error.status, console)
    assert isinstance(error, grpc.RpcError)
    status = status_of(error)
    if status.code in UNANSWERED and not detail(status, details.ErrorInfo):
        asked = [getattr(addresses, name) for name in VARIABLES]
        # What gRPC says is of the last address that it tried, which need not be the one that answers.
        if advice := next(filter(None, (diagnose(address, credentials) for address in asked)), ""):
            report_status(status, console)
            _print_fix(console, advice)
            return status.code
        if status.code == UNAVAILABLE:
            return _report_unreachable(status, console, addresses)
    return report_status(status, console)


def status_of(error: grpc.RpcError) -> Status:
    """The rich status of a failed call, or what little a call without one says."""
    if isinstance(error, grpc.Call):
        try:
            rich_status = rpc_status.from_call(error)
        except ValueError:  # The status in the trailers contradicts the call's own.
            rich_status = None
        if rich_status is not None:
            return rich_status
        return Status(code=int(status_code(error).value[0]), message=error.details() or "")
    return Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error))


def detail(status: Status, kind: type[M]) -> M | None:
    """The status's detail of that kind, if it has one."""
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def report_status(status: Status, console: Console) -> int:
    """Reason, message, fields at fault and fix; returns the status's code."""
    info = detail(status, details.ErrorInfo) or details.ErrorInfo()
    code_name = _code_name(status.code)
    head = f"{info.reason} ({code_name})" if info.reason else code_name
    console.print(f"[bold red]error:[/] [bold]{escape(head)}[/]", soft_wrap=True)
    console.print(f"  {escape(status.message)}", soft_wrap=True)
    for line in _violations(status):
        console.print(f"  [dim]•[/] {escape(line)}", soft_wrap=True)
    _print_fix(console, fix_for(info.reason, info.metadata, status))
    return status.code or 1


def _violations(status: Status) -> list[str]:
    """The fields and quotas at fault, as far as the message does not say it already."""
    lines: list[str] = []
    if bad := detail(status, details.BadRequest):
        lines += [f"{v.field}: {v.description}" for v in bad.field_violations]
    if quota := detail(status, details.QuotaFailure):
        lines += [f"{v.subject}: {v.description}" for v in quota.violations]
    wanted = [line for line in lines if not _says(status.message, line)]
    more = [f"and {len(wanted) - MAX_VIOLATIONS} more"] if len(wanted) > MAX_VIOLATIONS else []
    return wanted[:MAX_VIOLATIONS] + more


def _says(message: str, line: str) -> bool:
    """Whether a violation repeats the message, which says where the fault is anyway."""
    return line.partition(": ")[2] == message


def _dataset_not_ready(data: Mapping[str, str]) -> str:
    name = bare_name(data.get("name", "NAME"))
    if data.get("state") == "FAILED":
        return f"see `sightline datasets findings {name}`, repair the files, and register them under a new name"
    return f"wait until it is READY: `sightline datasets show {name}`"


def _quota_exceeded(data: Mapping[str, str]) -> str:
    setting = data.get("setting", "the limit")
    if setting == "SIGHTLINE_MAX_IMAGE_BYTES":
        return f"scale the image down or leave it out of the COCO file; or let the operator raise {setting}"
    return f"ask for less, or let the operator raise {setting}"


def _dataset_unusable(data: Mapping[str, str]) -> str:
    """An annotation file is at fault, or, where a dataset is named, what its findings list: images, annotations."""
    name = data.get("dataset") or data.get("file", "")
    if name.startswith("datasets/"):
        return f"mend what `sightline datasets findings {bare_name(name)}` lists, and register it under a new name"
    return "repair the COCO file and register it under a new name"


FIXES: dict[str, Callable[[Mapping[str, str]], str]] = {
    "datasetNotFound": lambda _: "`sightline datasets list` prints the datasets that exist",
    "ModelNotFound": lambda _: "`sightline models list` prints the models that exist",
    "EvaluationNotFound": lambda _: "create it: `sightline evaluations create MODEL NAME --dataset T`",
    "DatasetAlreadyExists": lambda d: (
        f"choose another name, or `sightline datasets delete {bare_name(d.get('name', 'NAME'))}`"
    ),
    "ModelAlreadyExists": lambda d: (
        f"choose another name, or `sightline models delete {bare_name(d.get('name', 'NAME'))}`"
    ),
    "notEnoughBudget": lambda d: f"repeat with --budget {_seconds(d.get('suggested_seconds', ''))}",
    "datasetNotReady": _dataset_not_ready,
    "ModelNotReady": lambda d: f"see how far it is: `sightline models show {bare_name(d.get('name', 'NAME'))}`",
    "incorrectModelKind": lambda _: (
        "choose a dataset that fits the model's kind; `sightline models train` without --kind takes that of the dataset"
    ),
    "datasetAnnotationsInvalid": _dataset_unusable,
    "datasetEmpty": _dataset_unusable,
    "categoriesUnknown": lambda _: "rename the categories in the COCO file, and register it under a new name",
    "datasetCorrupt": lambda _: "replace or remove the images that are named, and register the dataset anew",
    "QuotaExceeded": _quota_exceeded,
    "Unauthenticated": lambda _: (
        "set SIGHTLINE_TOKEN, or SIGHTLINE_TOKEN_FILE, to a token of your issuer or to a key that the operator made"
        " with `sightline keys make`"
    ),
    "PermissionDenied": lambda d: (
        f"ask whoever runs the services for a token of the role {d.get('role', 'that the rpc needs')}"
    ),
    "EtagMismatch": lambda _: "somebody changed it meanwhile: look at it again, then repeat",
    "internalServerError": lambda d: "the service's log has the whole story under this id" if "error_id" in d else "",
}


def fix_for(reason: str, metadata: Mapping[str, str], status: Status) -> str:
    """What to do about it, or nothing where the message itself says it."""
    if retry := detail(status, details.RetryInfo):
        return f"repeat the command in {duration(retry.retry_delay)}"
    if make := FIXES.get(reason):
        return make(metadata)
    if status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]:
        return "see what the services wait for with `sightline doctor`, where they run; then repeat the command"
    return ""


def _seconds(text: str) -> str:
    """Seconds as the option takes them."""
    try:
        return f"{max(1, -int(-float(text) // 1))}s"
    except ValueError:
        return "10m"


def _report_unreachable(status: Status, console: Console, addresses: Addresses) -> int:
    """Which services do not answer, and the variables that say where they are."""
    silent = [name for name in VARIABLES if not _listens(getattr(addresses, name))]
    for name in silent:
        address, variable = getattr(addresses, name), VARIABLES[name]
        console.print(
            f"[bold red]error:[/] the {name} service does not answer at [bold]{escape(address)}[/] ({variable})",
            soft_wrap=True,
        )
    if silent:
        fix = "start the suite on this machine: `sightline up`; or set the variable to where the service runs"
        _print_fix(console, fix)
        return status.code
    report_status(status, console)
    _print_fix(console, "the services answer again: repeat the command")
    return status.code


def _listens(address: str) -> bool:
    """Whether anything accepts connections there. Targets other than host:port are not judged."""
    place = place_of(address)
    if place is None:
        return True
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _code_name(code: int) -> str:
    by_number: dict[Any, str] = {known.value[0]: known.name for known in grpc.StatusCode}
    return by_number.get(code, f"code {code}")


def _print_fix(console: Console, fix: str) -> None:
    if fix:
        console.print(f"[bold green]fix:[/] {escape(fix)}", soft_wrap=True)
