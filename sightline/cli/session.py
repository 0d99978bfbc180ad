"""One command's connection to the services, and how every failure of it ends."""

from collections.abc import Generator
from contextlib import contextmanager

import grpc
import typer

from sightline.cli.console import notes
from sightline.cli.failures import CommandError, ResourceFailed, report
from sightline.client.addresses import AddressError, Addresses
from sightline.client.credentials import Credentials, CredentialsError
from sightline.client.stubs import Stubs

INTERRUPTED = 130


@contextmanager
def session() -> Generator[Stubs]:
    """A client for the block. Failures are reported on standard error, and end the command with their exit code."""
    addresses, credentials = Addresses(), Credentials.from_environment()
    try:
        addresses = Addresses.from_environment()
        with Stubs(addresses, credentials) as client:
            yield client
    except (grpc.RpcError, CommandError, ResourceFailed, CredentialsError, AddressError) as error:
        raise typer.Exit(report(error, notes(), addresses, credentials)) from None
    except KeyboardInterrupt:
        notes().print("[yellow]interrupted[/]; what the services were asked for goes on without this command")
        raise typer.Exit(INTERRUPTED) from None
