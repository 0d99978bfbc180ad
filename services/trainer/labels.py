"""Values of a metric's label of which there may be any number, such as names of projects or callers."""

MAX_NAMED = 50  # names with a label of their own, in the life of a process
OTHER = "_other"  # the label of all others; nothing can be called this


class Labels:
    """Prometheus never forgets a label, so their number is bounded: who has one keeps it, the rest share one."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def admit(self, name: str) -> bool:
        """Gives the name a label of its own if there is room; whether it is new."""
        if name in self._named or len(self._named) >= MAX_NAMED:
            return False
        self._named.add(name)
        return True

    def of(self, name: str) -> str:
        """The name, or OTHER."""
        return name if name in self._named else OTHER
