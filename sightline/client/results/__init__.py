"""What the services answer, as frozen dataclasses with a line per field.

Times are aware datetimes, durations timedeltas; what does not apply is None or empty, never 0. `message` is the
protobuf message itself, for whatever has no field here.
"""
