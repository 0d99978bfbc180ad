"""Who asked for work, and in which trace: a record keeps it for what happens after the call."""

import msgspec

from services.kit import callers, tracing


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The call that asked for it; empty where nobody traces, or nobody needs a token."""

    traceparent: str = ""
    caller: str = ""  # as logs name it

    @classmethod
    def current(cls) -> "Origin":
        """The call that the running task answers."""
        caller = callers.current.get()
        return cls(traceparent=tracing.current().traceparent, caller=caller.name if caller else "")


NO_ORIGIN = Origin()
