"""Which addresses of services are valid, and the errors about those that are not."""

import pytest

from services.kit.settings import load
from services.predictor.settings import PredictorSettings
from services.trainer.settings import TrainerSettings
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import AddressError, Addresses, fault_of


@pytest.mark.parametrize(
    "address",
    ["localhost:50051", "a-b_c.example:1", "10.0.0.7:65535", "[::1]:50051", "[fe80::1%eth0]:1", "dns:///host:1",
     "dns://127.0.0.1:53/host:1", "unix:/run/sightline", "ipv4:10.0.0.1:1,10.0.0.2:1"],
)  # fmt: skip
def test_host_and_port_and_other_targets_of_grpc_are_addresses(address):
    assert fault_of(address) == ""


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://host:1", "begins with http://"),
        ("grpc://host:1", "begins with grpc://"),
        ("host", "has no port"),
        ("[::1]", "has no port"),
        ("dns:///host", "has no port"),
        ("host:", "no port from 1 to 65535"),
        ("host:http", "no port from 1 to 65535"),
        ("host:0", "no port from 1 to 65535"),
        ("host:65536", "no port from 1 to 65535"),
        ("host:" + "9" * 5000, "no port from 1 to 65535"),
        ("host:-1", "no port from 1 to 65535"),
        (":50051", "has no host"),
        ("host:1/", "contains /"),
        ("host/path:1", "contains /"),
        (" host:1", "contains a space"),
        ("host:1\n", "contains a space"),
        ('"host:1"', 'contains "'),
        ("::1:50051", "write an IPv6 address in brackets"),
        ("[host]:1", "other than an IPv6 address"),
        ("user:password@host:1", "contains @"),
    ],
)
def test_an_invalid_address_is_refused_with_its_fault_and_the_expected_form(address, words):
    message = fault_of(address)
    assert words in message
    assert "expected host:port" in message
    assert "password" not in message


def test_every_invalid_variable_is_reported_before_anything_is_sent(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_DATASET_ADDRESS", "http://host:1")
    monkeypatch.setenv("SIGHTLINE_PREDICTOR_ADDRESS", "host")
    with pytest.raises(AddressError) as caught:
        Stubs()
    assert "SIGHTLINE_DATASET_ADDRESS: 'http://host:1' begins with" in str(caught.value)
    assert "SIGHTLINE_PREDICTOR_ADDRESS: 'host' has no port" in str(caught.value)
    with pytest.raises(AddressError, match="trainer: 'x' has no port"):
        Addresses(trainer="x")


def test_a_service_reports_all_invalid_addresses_at_once(monkeypatch):
    wrong = {
        "SIGHTLINE_DATASET_ADDRESS": "http://dataset:50051",
        "SIGHTLINE_NATS_URL": "http://nats:4222",
        "SIGHTLINE_S3_ENDPOINT": "https://s3.example",
        "SIGHTLINE_PORT": "65536",
        "SIGHTLINE_METRICS_PORT": "-1",
    }
    for variable, value in wrong.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load(TrainerSettings)
    message = str(caught.value)
    assert all(f"{variable}: " in message for variable in wrong)
    assert "SIGHTLINE_S3_SECURE" in message
    monkeypatch.setenv("SIGHTLINE_TRAINER_ADDRESS", "trainer")
    with pytest.raises(SystemExit, match="SIGHTLINE_TRAINER_ADDRESS: 'trainer' has no port"):
        load(PredictorSettings)


@pytest.mark.parametrize("endpoint", ["s3.amazonaws.com", "minio:9000", "[::1]:9000", ""])
def test_an_endpoint_of_s3_needs_no_port(monkeypatch, endpoint):
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT", endpoint)
    assert load(TrainerSettings).s3_endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["http://minio:9000", "minio:9000/bucket", "minio:", "key:secret@minio:9000"])
def test_an_endpoint_of_s3_has_neither_scheme_nor_path(monkeypatch, endpoint):
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT", endpoint)
    with pytest.raises(SystemExit, match="SIGHTLINE_S3_ENDPOINT: it ") as caught:
        load(TrainerSettings)
    assert "secret" not in str(caught.value)
