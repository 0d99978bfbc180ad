"""The table of roles: every rpc of the contract is in it, and nothing else."""

import pkgutil
from importlib import import_module

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from services.kit.roles import OPEN, POLICY, Role, may
from sightline import v1
from sightline.client import keys
from sightline.inference import open_inference_pb2

MODULES = [import_module(f"sightline.v1.{module.name}") for module in pkgutil.iter_modules(v1.__path__)]


def rpcs(*files) -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


CONTRACT = rpcs(*(module.DESCRIPTOR for module in MODULES if hasattr(module, "DESCRIPTOR")))
INFERENCE = rpcs(open_inference_pb2.DESCRIPTOR)
OPEN_INFERENCE = {f"/inference.GRPCInferenceService/{rpc}" for rpc in ("ServerLive", "ServerReady")}


def test_every_rpc_of_the_contract_has_a_policy_and_no_policy_is_for_another():
    assert len(CONTRACT) > 30
    served = CONTRACT | rpcs(reflection_pb2.DESCRIPTOR) | INFERENCE - OPEN_INFERENCE
    assert served | {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} == POLICY.keys()


def test_only_health_is_open_by_whichever_protocol():
    assert OPEN_INFERENCE <= INFERENCE
    assert rpcs(health_pb2.DESCRIPTOR) | OPEN_INFERENCE == OPEN


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.PREDICTOR, {Role.VIEWER, Role.PREDICTOR}),
        (Role.TRAINER, {Role.VIEWER, Role.TRAINER}),
        (Role.ADMIN, set(Role)),
    ],
)
def test_a_role_includes_the_roles_before_it(role, allowed):
    assert {wanted for wanted in Role if may({role}, wanted)} == allowed


def test_without_a_role_nothing_is_allowed():
    assert not any(may(set(), wanted) for wanted in Role)


def test_a_viewer_changes_nothing():
    read = ("Get", "List", "Watch", "Compare", "Estimate", "ServerReflectionInfo")
    read += ("ServerMetadata", "ModelReady", "ModelMetadata", "RepositoryIndex")
    viewers = {path.rpartition("/")[2] for path, role in POLICY.items() if role is Role.VIEWER}
    assert all(name.startswith(read) for name in viewers)


def test_the_command_offers_every_role():
    assert list(keys.ROLES) == [role.value for role in Role]
