"""What callers do to every resource: ask until there is an answer, wait, delete."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

import grpc

from tests.chaos.campaign.calls import Api, Refused, Replica, Unanswered
from tests.chaos.campaign.history import Violation

T = TypeVar("T")
STEP_SECONDS = 90.0  # in which a call must succeed and work get on, however many faults there are: else it is stuck
POLL_SECONDS = 0.3


class Asker:
    """Sends calls to replicas of one service, and waits for what must come true."""

    service = ""

    def __init__(self, api: Api, routes: Random) -> None:
        """`routes` decides which replica a call goes to."""
        self._api, self._routes = api, routes

    @property
    def _replica(self) -> Replica:
        return self._api.any(self.service, self._routes)

    def _remove(self, delete: Callable[[], object], name: str) -> None:
        """Deletes; NOT_FOUND only if an earlier attempt got no answer. What needs it yet may end meanwhile."""
        unanswered, deadline = False, time.monotonic() + STEP_SECONDS
        while True:
            try:
                delete()
            except Unanswered:
                unanswered = True
            except Refused as error:
                if error.code is grpc.StatusCode.NOT_FOUND and unanswered:
                    return
                if error.code is not grpc.StatusCode.FAILED_PRECONDITION or time.monotonic() > deadline:
                    raise Violation(f"deleting {name}: {error}") from None
            else:
                return
            if time.monotonic() > deadline:
                raise Violation(f"{name} cannot be deleted in {STEP_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _gone(self, get: Callable[[], Any], name: str) -> None:
        def is_gone() -> bool:
            try:
                get()
            except Refused as error:
                return error.code is grpc.StatusCode.NOT_FOUND
            except Unanswered:
                pass
            return False

        if not self._until(is_gone, bool):
            raise Violation(f"{name} was deleted {STEP_SECONDS:.0f} s ago, and is still there")

    def _until(self, find: Callable[[], T], holds: Callable[[T], bool]) -> T:
        """The first result that holds, or one that has not changed for STEP_SECONDS."""
        found, since = find(), time.monotonic()
        while not holds(found) and time.monotonic() < since + STEP_SECONDS:
            time.sleep(POLL_SECONDS)
            before, found = found, find()
            since = since if found == before else time.monotonic()
        return found
