"""Decides what comes next, and estimates what it costs: pure functions of records."""
