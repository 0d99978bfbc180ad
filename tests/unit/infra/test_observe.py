"""Log lines and metrics as operators read them."""

import logging
import urllib.request
import warnings
from collections.abc import Iterator
from io import StringIO

import pytest

from services.infra.observe import MetricsEndpoint, PrometheusTelemetry
from services.kit import log
from services.kit.telemetry import Metric, MetricKind
from tests.support.logs import captured_log, lines

IMAGES = Metric("test_images_total", MetricKind.COUNTER, "Images.", ("format",))
DEPTH = Metric("test_depth", MetricKind.GAUGE, "Depth.")
SECONDS = Metric("test_seconds", MetricKind.HISTOGRAM, "Seconds.", (), (0.1, 1))


@pytest.fixture
def stream() -> Iterator[StringIO]:
    with captured_log("dataset", "INFO") as captured:
        yield captured


def test_an_event_is_one_line_with_its_fields_and_the_current_ids(stream):
    log.request_id.set("r1")
    with log.about("datasets/birds"):
        log.Log("services.test").info("dataset_ready", image_count=3, note="two\nlines")
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "dataset_ready",
        "level": "info",
        "service": "dataset",
        "request_id": "r1",
        "resource": "datasets/birds",
        "image_count": 3,
        "note": "two\nlines",
    }


def test_metadata_quoted_by_grpc_is_not_logged(stream):
    logger = logging.getLogger("grpc._cython.cygrpc")
    logger.error("Invalid encoding on %s", b"Bearer secret")
    logger.error("something else")
    (line,) = lines(stream)
    assert line["message"] == "something else"


def test_a_field_never_replaces_one_that_every_line_has(stream):
    log.Log("services.test").info("tried", event="x", level="y", service="z", time="w", name=object())
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["service"]) == ("tried", "info", "dataset")
    assert (line["event_"], line["level_"], line["service_"], line["time_"]) == ("x", "y", "z", "w")


def test_an_exception_is_logged_with_its_traceback(stream):
    try:
        raise KeyError("lost")
    except KeyError as error:
        log.Log("services.test").error("went_wrong", error)
    (line,) = lines(stream)
    assert line["exception"]["type"] == "KeyError"
    assert line["exception"]["message"] == "'lost'"
    assert "test_observe.py" in line["exception"]["traceback"]


def test_a_failure_in_a_task_group_is_logged_with_its_own_message(stream):
    lost = KeyError("lost")
    several = ExceptionGroup("several", [lost, lost])
    for error in (ExceptionGroup("outer", [ExceptionGroup("inner", [lost])]), several):
        log.Log("services.test").error("went_wrong", error)
    one, more = (line["exception"] for line in lines(stream))
    assert (one["type"], one["message"]) == ("KeyError", "'lost'")
    assert more["message"] == str(several)


def test_a_librarys_message_is_a_field_of_a_constant_event(stream):
    logging.getLogger("nats").warning("slow consumer on %s", "jobs")
    logging.getLogger("nats").info("chatter")
    log.Log("services.test").debug("detail")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["message"]) == ("library_message", "nats", "slow consumer on jobs")


def test_a_python_warning_is_logged_as_a_librarys_message(stream):
    warnings.warn("Truncated File Read", UserWarning, stacklevel=1)
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("library_message", "py.warnings", "warning")
    assert line["message"] == "UserWarning: Truncated File Read"


def test_a_scrape_shows_the_measurements_and_the_build():
    telemetry = PrometheusTelemetry("dataset")
    telemetry.add(IMAGES, 2, format="JPEG")
    telemetry.add(DEPTH, 5)
    telemetry.add(DEPTH, -2)
    telemetry.observe(SECONDS, 0.5)
    endpoint = MetricsEndpoint(telemetry.registry, "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics") as response:
            text = response.read().decode()
    finally:
        endpoint.close()
    assert 'test_images_total{format="JPEG"} 2.0' in text
    assert "test_depth 3.0" in text
    assert 'test_seconds_bucket{le="1.0"} 1.0' in text
    assert 'sightline_build_info{python="' in text
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


def test_wrong_use_of_a_metric_is_logged_and_raises_nothing(stream):
    telemetry = PrometheusTelemetry("dataset")
    telemetry.add(IMAGES)
    telemetry.set(IMAGES, 1, format="PNG")
    assert [line["event"] for line in lines(stream)] == ["metric_misused"] * 2
