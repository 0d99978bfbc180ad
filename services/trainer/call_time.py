"""How long a call that waits for a worker may wait, so that its answer still arrives before its deadline."""

SHARE, LEAST_SECONDS, MOST_SECONDS = 0.05, 1.0, 10.0  # kept for the answer
MOST_SHARE = 0.25  # of a short call; gRPC rounds deadlines up


def waiting_seconds(given: float) -> float:
    """Of the seconds that a call was given, those that it may wait."""
    kept = min(max(LEAST_SECONDS, SHARE * given), MOST_SECONDS, MOST_SHARE * given)
    return given - kept
