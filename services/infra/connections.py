"""How long a server keeps a connection, and how often a caller may ping it."""

from dataclasses import dataclass

from sightline.client.channel import MAX_MESSAGE_BYTES

_LONGEST_MS = 2**31 - 1  # to gRPC this means for ever


@dataclass(frozen=True, slots=True)
class Connections:
    """What a server asks of its callers' connections."""

    # Pings less than this apart count as strikes: gRPC ends a connection at the third, with `too_many_pings`. Callers
    # are promised twice as long an interval in docs/api.md, as networks bunch pings.
    ping_seconds: float = 5.0
    # After this a caller is asked to reconnect: it resolves the address again, and so finds new replicas.
    age_seconds: float = 90.0

    def options(self, max_stream_seconds: float) -> tuple[tuple[str, int], ...]:
        """The server's gRPC options.

        A caller that is asked to reconnect loses no call: its connection takes no new ones, and stays until the last
        one ends. The grace, after which gRPC would cut it, is longer than any stream may last.
        """
        return (
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),  # A port in use is an error, not a port to share.
            ("grpc.keepalive_time_ms", 60_000),  # A caller that vanished is noticed, and its streams with it.
            ("grpc.keepalive_timeout_ms", 20_000),
            # Without this an idle caller's pings must be two hours apart.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.ping_seconds)),
            ("grpc.max_connection_age_ms", _ms(self.age_seconds)),
            ("grpc.max_connection_age_grace_ms", _ms(max_stream_seconds + 60)),
        )


STANDARD = Connections()


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), _LONGEST_MS)
