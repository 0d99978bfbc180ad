"""Requests that may be repeated: a Create that its caller gave no `request_id` gets one before it is first sent.

gRPC sends a call again when a service died over it, and nobody knows then whether it had its effect. With an id the
service answers the repetition as it would have answered the first; without one it would say ALREADY_EXISTS.
"""

import secrets
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

FIELD = "request_id"


def identified(request: Any) -> Any:
    """The request itself, or a copy with an id where it has a place for one that is empty."""
    if not isinstance(request, Message) or FIELD not in request.DESCRIPTOR.fields_by_name or getattr(request, FIELD):
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    setattr(copy, FIELD, secrets.token_hex(16))
    return copy


class RequestIds(grpc.UnaryUnaryClientInterceptor):
    """Gives each call's request its id."""

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        return continuation(client_call_details, identified(request))
