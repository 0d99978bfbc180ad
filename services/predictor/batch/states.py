"""The state machine of batch predictions.

(create) ─▶ NOT_STARTED ──(a) take──▶ RUNNING ◀─(a) progress─┐
│(d)                     │ │ │ └────────────────┘
│        ┌──────(d)──────┘ │ └──(c) fail──▶ FAILED ◀──(c)── NOT_STARTED
▼        ▼                 └────(b) deliver─▶ SUCCEEDED
CANCELLING ──(e) stop──▶ CANCELLED         (f) delete, from every state ──▶ DELETING ──(g) empty──▶ (gone)
"""

from enum import StrEnum


class State(StrEnum):
    """The state of a batch prediction."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    DELETING = "DELETING"


class Event(StrEnum):
    """The events of the state machine."""

    TAKE = "take"
    PROGRESS = "progress"
    DELIVER = "deliver"
    FAIL = "fail"
    CANCEL = "cancel"
    STOP = "stop"
    DELETE = "delete"
    EMPTY = "empty"


TRANSITIONS: dict[Event, dict[State, State]] = {
    Event.TAKE: {
        State.NOT_STARTED: State.RUNNING,
        State.RUNNING: State.RUNNING,
        State.CANCELLING: State.CANCELLING,
        State.DELETING: State.DELETING,
    },
    Event.PROGRESS: {State.RUNNING: State.RUNNING},
    Event.DELIVER: {State.RUNNING: State.SUCCEEDED},
    Event.FAIL: {State.NOT_STARTED: State.FAILED, State.RUNNING: State.FAILED},
    Event.CANCEL: {State.NOT_STARTED: State.CANCELLING, State.RUNNING: State.CANCELLING},
    Event.STOP: {State.CANCELLING: State.CANCELLED},
    Event.DELETE: dict.fromkeys(State, State.DELETING),
    Event.EMPTY: {State.DELETING: State.DELETING},
}
ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
