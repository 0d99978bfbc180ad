"""The trace of a caller that uses OpenTelemetry, for the services to continue; the client itself needs none of it."""

import sys


def trace_headers() -> list[tuple[str, str]]:
    """W3C Trace Context of the caller's current span, as metadata; nothing without one, or without OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")  # whoever has a span has imported it
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return []
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - the caller's package, not ours
        TraceContextTextMapPropagator,
    )

    headers = dict[str, str]()
    TraceContextTextMapPropagator().inject(headers)
    return list(headers.items())
