"""The few calls that need no token: a bounded pool in which a newcomer always finds a place."""

from collections.abc import Callable
from dataclasses import dataclass

from services.infra.server_metrics import IN_FLIGHT, REFUSED, Limit, Whose
from services.kit.errors import Overloaded
from services.kit.telemetry import Telemetry


@dataclass(eq=False, slots=True)
class OpenPlace:
    """A call's place. `is_answered` once only its response is to be sent."""

    host: str
    end: Callable[[], None]
    is_answered: bool = False


class OpenCalls:
    """Law: when the pool is full, the oldest call ends for the newcomer.

    A probe's request comes with its headers and is answered at once, so it is done before as many others come as the
    pool has places; a stream is opened again. One host has at most half of the pool, because a call whose response its
    caller does not take cannot be ended.
    """

    def __init__(self, most: int, telemetry: Telemetry) -> None:
        self._most, self._of_host, self._telemetry = most, max(1, most // 2), telemetry
        self._places: dict[OpenPlace, None] = {}  # the oldest first

    def enter(self, peer: str, end: Callable[[], None]) -> OpenPlace:
        """A place for a call from the peer, as gRPC names it; Overloaded if no other call can be ended for it."""
        host = peer.rpartition(":")[0]
        same = [place for place in self._places if place.host == host]
        if len(same) >= self._of_host:
            self._make_room(same, self._of_host)
        elif len(self._places) >= self._most:
            self._make_room(list(self._places), self._most)
        place = OpenPlace(host, end)
        self._places[place] = None
        return place

    def tell(self) -> None:
        """Sets the gauge."""
        self._telemetry.set(IN_FLIGHT, len(self._places), kind="open")

    def leave(self, place: OpenPlace) -> None:
        """Gives the place back; again does nothing."""
        self._places.pop(place, None)

    def _make_room(self, places: list[OpenPlace], limit: int) -> None:
        self._telemetry.add(REFUSED, limit=Limit.CALLS, whose=Whose.OPEN)
        oldest = next((place for place in places if not place.is_answered), None)
        if oldest is None:
            raise Overloaded(service="health", limit=limit, what="calls in flight")
        self.leave(oldest)
        oldest.end()
