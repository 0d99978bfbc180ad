"""What ingest, training and serving must agree on: pixels, networks, metrics and file formats.

Some of its libraries tell their makers how they are used: ONNX Runtime the names and digests of models. Not here.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reads it when it is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType] - OpenVINO does without it then
