"""How long a server keeps a connection, and how often a client may ping it."""

from dataclasses import dataclass

from services.infra.limits import Limits
from sightline.client.transport.channel import MAX_MESSAGE_BYTES

MIN_STREAMS = 16  # of one connection
_LONGEST_MS = 2**31 - 1  # gRPC takes this as unlimited


@dataclass(frozen=True, slots=True)
class Connections:
    """A server's rules for its clients' connections."""

    # Pings closer together than this count as strikes: gRPC ends a connection at the third, with `too_many_pings`.
    # docs/api.md tells clients to use twice this interval, as networks bunch pings.
    ping_seconds: float = 5.0
    # After this a client is asked to reconnect: it resolves the address again, and so finds new replicas.
    age_seconds: float = 90.0
    # For TLS and HTTP/2 to be agreed on; a connection that sends nothing ends after this.
    handshake_seconds: float = 10.0

    def options(self, limits: Limits, most: int) -> tuple[tuple[str, int], ...]:
        """The server's gRPC options, for at most so many connections.

        A client that is asked to reconnect loses no call: the connection takes no new ones and stays open until the
        last one ends. The grace, after which gRPC would cut it, is longer than any stream may last. An idle connection
        has none, so it ends then.

        gRPC cannot limit the connections of one peer, nor the size of messages by rpc.
        """
        return (
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Above this gRPC refuses calls, at first at random; its default of 8 KiB has no room for the longest token.
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a port to share
            ("grpc.keepalive_time_ms", 60_000),  # detects vanished clients, and ends their streams
            ("grpc.keepalive_timeout_ms", 20_000),
            # Without this, an idle client's pings must be two hours apart.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.ping_seconds)),
            ("grpc.max_connection_age_ms", _ms(self.age_seconds)),
            ("grpc.max_connection_age_grace_ms", _ms(limits.stream_seconds + 60)),
            ("grpc.max_allowed_incoming_connections", most),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_seconds)),
            # A client with more calls than this keeps them back.
            ("grpc.max_concurrent_streams", max(MIN_STREAMS, limits.caller.calls)),
        )


STANDARD = Connections()


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), _LONGEST_MS)
