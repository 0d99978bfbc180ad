"""The three services of Sightline and what they share."""

import os

# Here, though an import should do nothing: gRPC's core reads it when it is imported, and its own lines are no JSON.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
