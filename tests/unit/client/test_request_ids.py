"""Requests get an id, so that gRPC may repeat them."""

from sightline.client.transport.request_ids import with_request_id
from sightline.v1 import dataset_service_pb2 as service


def test_a_create_without_an_id_gets_one_and_the_callers_message_is_unchanged() -> None:
    request = service.CreateDatasetRequest(dataset_id="d")
    one, two = with_request_id(request), with_request_id(request)
    assert one.request_id != two.request_id
    assert (len(one.request_id), one.dataset_id, request.request_id) == (32, "d", "")


def test_an_id_chosen_by_the_caller_is_kept() -> None:
    request = service.CreateDatasetRequest(request_id="mine")
    assert with_request_id(request) is request


def test_requests_without_a_field_for_an_id_are_unchanged() -> None:
    request = service.GetDatasetRequest(name="datasets/d")
    assert with_request_id(request) is request
    assert with_request_id(b"bytes") == b"bytes"
