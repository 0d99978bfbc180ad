"""Names gain the call's project as they come in, and lose it as they go out; keys and tokens say in which they hold."""

from __future__ import annotations

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from services.infra import projects
from services.infra.static_keys import parse
from services.kit import names
from services.kit.callers import DEFAULT_PROJECT
from services.kit.errors import DatasetNotFound, InvalidName, InvalidRequest, ModelNotFound
from services.kit.status import failure_to_status, status_of
from sightline.client import keys
from sightline.v1 import model_pb2, model_service_pb2

FULL = "projects/acme/"


def model(prefix: str) -> model_pb2.Model:
    """A model with names at every depth."""
    made = model_pb2.Model(
        name=f"{prefix}models/m", best_trial=f"{prefix}models/m/trials/t000", display_name="projects/x"
    )
    made.training_parameters.training_dataset = f"{prefix}datasets/d"
    made.ledger.add(trial=f"{prefix}models/m/trials/t000")
    made.progress.running.add()
    made.bundle_uri = "s3://sightline/projects/acme/models/m/1/bundle/"
    return made


def test_names_are_qualified_and_shown_again_at_every_depth_and_nothing_else_changes():
    assert projects.qualified(model(""), "acme") == model(FULL)
    assert projects.shown(model(FULL), "acme") == model("")
    assert projects.qualified(model(""), DEFAULT_PROJECT) == projects.shown(model(""), DEFAULT_PROJECT) == model("")


def test_showing_an_answer_leaves_the_handlers_own_message_alone():
    answer = model(FULL)
    projects.shown(answer, "acme")
    assert answer == model(FULL)


@pytest.mark.parametrize("project", ["acme", DEFAULT_PROJECT])
def test_a_callers_name_with_a_project_is_refused_with_the_path_to_its_field(project: str):
    request = model_service_pb2.CreateModelRequest(model=model(""))
    request.model.training_parameters.base_model = "projects/umbrella/models/m"
    with pytest.raises(InvalidName) as caught:
        projects.qualified(request, project)
    assert caught.value.metadata["field"] == "model.training_parameters.base_model"


@pytest.mark.parametrize("project", ["umbrella", DEFAULT_PROJECT])
def test_an_answer_that_names_another_project_is_never_sent(project: str):
    with pytest.raises(projects.ForeignName):
        projects.shown(model(FULL), project)


def test_a_name_of_the_default_project_is_foreign_to_another():
    with pytest.raises(projects.ForeignName):
        projects.shown(model(""), "acme")


def test_errors_and_stored_errors_show_local_names_and_whole_uris():
    error = InvalidRequest(
        field="x", problem="projects/acme/models/m has s3://b/projects/acme/uploads/u, not projects/b/c"
    )
    shown = projects.shown_status(status_of(error), "acme")
    assert shown.message == "x: models/m has s3://b/projects/acme/uploads/u, not projects/b/c"
    failed = model(FULL)
    failed.error.CopyFrom(failure_to_status(DatasetNotFound(name="projects/acme/datasets/d").failure()))
    status, info = projects.shown(failed, "acme").error, ErrorInfo()
    assert status.message == "datasets/d does not exist."
    assert status.details[0].Unpack(info)
    assert info.metadata["name"] == "datasets/d"


def test_every_variable_of_an_error_is_shown_with_its_local_name():
    variables = {f"v{number}": f"projects/acme/models/m{number}" for number in range(50)}
    status = Status()
    status.details.add().Pack(ErrorInfo(metadata=variables))
    shown = ErrorInfo()
    assert projects.shown_status(status, "acme").details[0].Unpack(shown)
    assert dict(shown.metadata) == {name: value.removeprefix(FULL) for name, value in variables.items()}


def test_details_that_this_version_does_not_know_pass_through():
    status = Status(message="projects/acme/models/m")
    status.details.add().Pack(model_pb2.EvaluationParameters(test_dataset="x"))
    assert projects.shown_status(status, "acme").details == status.details
    known = projects.shown_status(status_of(ModelNotFound(name="projects/acme/models/m")), "acme")
    assert b"acme" not in known.SerializeToString()


def test_a_request_to_another_service_has_local_names_of_one_project():
    sent, project = projects.local_request(model(FULL))
    assert (sent, project) == (model(""), "acme")
    assert projects.local_request(model("")) == (model(""), DEFAULT_PROJECT)
    mixed = model(FULL)
    mixed.best_trial = "models/m/trials/t000"
    with pytest.raises(projects.ForeignName):
        projects.local_request(mixed)


def test_the_metadata_chooses_one_project():
    assert projects.asked([("x", "y")]) == projects.asked([(projects.PROJECT, "")]) == ""
    assert projects.asked([(projects.PROJECT, "acme-1")]) == "acme-1"
    for wrong in ("A", "-a", "a-", "a.b", "a" * 64, b"acme"):
        with pytest.raises(InvalidName):
            projects.asked([(projects.PROJECT, wrong)])
    with pytest.raises(InvalidName):
        projects.asked([(projects.PROJECT, "a"), (projects.PROJECT, "b")])


def test_a_full_names_parts():
    assert names.split("projects/acme/models/m/trials/t") == ("acme", "models/m/trials/t")
    assert names.split("models/m") == (DEFAULT_PROJECT, "models/m")
    assert names.parent("projects/acme/models/m/trials/t") == "projects/acme/models/m"
    assert names.parent("models/m/trials/t") == "models/m"
    assert names.parse("projects/acme/models/m/trials/t", "models", "trials") == ("m", "t")
    with pytest.raises(InvalidName, match="'models' is not"):
        names.parse("projects/acme/models", "models")


def test_a_keys_line_says_in_which_projects_it_holds():
    digest = "sha256:" + "0" * 63
    lines = f"a viewer {digest}1\nb admin {digest}2 acme,umbrella # both\nc viewer {digest}3 *\n"
    held = {caller.subject: caller.projects for caller in parse(lines.encode()).values()}
    assert held == {"a": {DEFAULT_PROJECT}, "b": {"acme", "umbrella"}, "c": {"*"}}
    for wrong in ("Acme", "acme,", "a b", "acme,*,"):
        with pytest.raises(ValueError, match="line 1 is not"):
            parse(f"a viewer {digest}1 {wrong}".encode())


def test_a_made_key_is_read_with_its_projects_and_both_sides_take_the_same_projects():
    assert keys.PROJECT.pattern == names.PROJECT.pattern
    for chosen in ((), ("acme",), ("acme", "b-2"), ("*",)):
        _, line = keys.make("ann", "trainer", chosen)
        assert next(iter(parse(line.encode()).values())).projects == frozenset(chosen or {DEFAULT_PROJECT})
    with pytest.raises(ValueError, match="'A' is not a valid project"):
        keys.make("ann", "trainer", ["A"])
