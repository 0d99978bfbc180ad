"""Makes requests safe to repeat: one without its `request_id`, as of a Create, gets one before it is first sent.

gRPC retries a call when a service died during it, which may have happened after the call took effect. With an id, the
service responds to the retry as it would have to the first attempt; without one, it would return ALREADY_EXISTS.
"""

import secrets
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

FIELD = "request_id"


def with_request_id(request: Any) -> Any:
    """The request itself, or a copy with an id if its `request_id` field is empty."""
    if not isinstance(request, Message) or FIELD not in request.DESCRIPTOR.fields_by_name or getattr(request, FIELD):
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    setattr(copy, FIELD, secrets.token_hex(16))
    return copy


class RequestIds(grpc.UnaryUnaryClientInterceptor):
    """Gives each unary call's request an id."""

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        return continuation(client_call_details, with_request_id(request))
