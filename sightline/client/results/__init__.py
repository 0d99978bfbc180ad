"""The services' responses as frozen dataclasses.

Times are aware datetimes, durations timedeltas; what does not apply is None or empty, never 0. `message` is the
protobuf message itself, for everything that has no field here.
"""
