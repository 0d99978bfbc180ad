"""Three nats-servers that keep each stream on all of them, as in production, and what can be done to them."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Self

from tests.support.servers import NatsServer, ServerFailed, free_port

SERVERS = 3
READY_SECONDS = 60.0
CONFIG = """\
server_name: {name}
http: "127.0.0.1:{http}"
cluster {{
  name: campaign
  listen: "127.0.0.1:{cluster}"
  no_advertise: true
  advertise: "127.0.0.1:1" # nothing is there: routes that servers tell one another of would bypass the links
  routes: [{routes}]
}}
"""


class Broker:
    """The cluster in a folder. Faults are undone by `restore`; `wait` returns once streams can be written again.

    `route` gives the port by which a server reaches the cluster port of another: that of a link, or the port itself.
    """

    def __init__(self, folder: Path, route: Callable[[str, int], int] = lambda _, port: port) -> None:
        ports = [free_port() for _ in range(SERVERS)]
        self._http = [free_port() for _ in range(SERVERS)]
        self.servers: list[NatsServer] = []
        for number, (port, http) in enumerate(zip(ports, self._http, strict=True)):
            others = [route(f"nats-{number}/nats-{peer}", ports[peer]) for peer in range(SERVERS) if peer != number]
            routes = ", ".join(f'"nats://127.0.0.1:{other}"' for other in others)
            config = CONFIG.format(name=f"nats-{number}", http=http, cluster=port, routes=routes)
            self.servers.append(NatsServer(folder / f"nats-{number}", config=config))
        self.down: set[int] = set()  # on purpose
        self.paused: set[int] = set()
        self.killed = 0  # crashes so far

    @property
    def url(self) -> str:
        """The urls of all servers, for clients."""
        return ",".join(server.url for server in self.servers)

    def kill(self, number: int) -> None:
        """Crashes a server."""
        self.down.add(number)
        self.paused.discard(number)
        self.killed += 1
        self.servers[number].kill()

    def start(self, number: int) -> None:
        """Starts a server that was killed."""
        self.servers[number].start()
        self.down.discard(number)

    def pause(self, number: int) -> None:
        """Freezes a server: its connections stay open, and it does not answer."""
        self.paused.add(number)
        self.servers[number].pause()

    def resume(self, number: int) -> None:
        """Lets a frozen server run."""
        self.paused.discard(number)
        self.servers[number].resume()

    def restore(self) -> None:
        """Every server runs."""
        for number in sorted(self.paused):
            self.resume(number)
        for number in sorted(self.down):
            self.start(number)

    def damage(self, number: int, chance: Random) -> str:
        """Flips a bit in a block of a killed server's streams, or cuts the block short; returns what was done."""
        blocks = sorted((self.servers[number].folder / "store").rglob("msgs/*.blk"))
        blocks = [block for block in blocks if block.stat().st_size]
        if not blocks:
            return "nothing to damage"
        block = chance.choice(blocks)
        size, cuts = block.stat().st_size, chance.random() < 0.5
        at = chance.randrange(size)
        with block.open("r+b") as file:
            if cuts:
                file.truncate(at)
            else:
                file.seek(at)
                byte = file.read(1)[0] ^ (1 << chance.randrange(8))
                file.seek(at)
                file.write(bytes([byte]))
        return f"{'cut' if cuts else 'flipped a bit of'} {block.parent.parent.name}/{block.name} at {at} of {size}"

    def wait(self, seconds: float = READY_SECONDS) -> None:
        """Returns once every server that runs says that its streams are current; ServerFailed."""
        deadline = time.monotonic() + seconds
        for number, port in enumerate(self._http):
            while number not in self.down | self.paused and (problem := _problem(port)):
                if time.monotonic() > deadline:
                    raise ServerFailed(f"nats-{number} is not ready after {seconds:.0f} s: {problem}")
                time.sleep(0.1)

    def leader(self, stream: str) -> int | None:
        """The server that leads a stream, as the first that answers knows; None if there is none."""
        for port in self._http:
            for account in _fetch(port, "/jsz?streams=true").get("account_details", ()):
                for found in account.get("stream_detail", ()):
                    name = (found.get("cluster") or {}).get("leader", "") if found["name"] == stream else ""
                    if name:
                        return int(name.rpartition("-")[2])
        return None

    def __enter__(self) -> Self:
        for server in self.servers:
            server.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        for number in self.paused.copy():
            self.resume(number)
        for server in self.servers:
            server.kill()


def _problem(port: int) -> str:
    """Why a server is not ready; empty if it is."""
    found = _fetch(port, "/healthz")
    return "" if found.get("status") == "ok" else str(found.get("error") or found.get("status") or "it is silent")


def _fetch(port: int, path: str) -> dict[str, Any]:
    """What a server's monitoring says; nothing if it is silent."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return json.load(error)
    except (OSError, ValueError):
        return {}
