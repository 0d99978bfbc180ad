"""A DNS server on a free local port, which answers every name with the addresses that a test sets."""

import asyncio
import socket
from typing import Self, cast

_A = 1


class NameServer(asyncio.DatagramProtocol):
    """Answers within the block; `addresses` are IPv4."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = int(self._transport.get_extra_info("sockname")[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        cast("asyncio.DatagramTransport", self._transport).close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One question: an id and flags, counts, then a name, its type and its class."""
        end = data.index(0, 12) + 5
        question = data[12:end]
        asked = int.from_bytes(data[end - 4 : end - 2], "big")
        found = self.addresses if asked == _A else []
        head = data[:2] + b"\x81\x80" + b"".join(n.to_bytes(2, "big") for n in (1, len(found), 0, 0))
        record = b"\xc0\x0c" + _A.to_bytes(2, "big") + b"\0\1" + bytes(4) + b"\0\4"
        answers = b"".join(record + socket.inet_aton(address) for address in found)
        cast("asyncio.DatagramTransport", self._transport).sendto(head + question + answers, addr)
