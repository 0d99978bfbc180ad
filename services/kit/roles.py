"""Who may call which rpc: the roles, and the table of the role that each rpc requires."""

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Role(StrEnum):
    """What a token allows its bearer to do.

    viewer ──► predictor ──► admin         an arrow leads to a role that includes the other
       └─────► trainer ───────▲
    """

    VIEWER = "viewer"  # read records, follow work
    PREDICTOR = "predictor"  # and use models
    TRAINER = "trainer"  # and make and delete datasets, models and evaluations
    ADMIN = "admin"  # everything


_INCLUDED: Mapping[Role, frozenset[Role]] = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.PREDICTOR: frozenset({Role.VIEWER, Role.PREDICTOR}),
    Role.TRAINER: frozenset({Role.VIEWER, Role.TRAINER}),
    Role.ADMIN: frozenset(Role),
}

_BY_SERVICE: Mapping[str, Mapping[Role, str]] = {
    "sightline.v1.DatasetService": {
        Role.VIEWER: "GetDataset ListDatasets WatchDataset ListFindings CompareDatasets ListUploads ListUploadedFiles",
        # All images of a dataset are more than its record.
        Role.TRAINER: (
            "CreateDataset UpdateDataset DeleteDataset UploadFiles ReadUploadedFile DeleteUpload ReadImages "
            "ListDatasetSamples"
        ),
    },
    "sightline.v1.ModelService": {
        Role.VIEWER: "GetModel ListModels WatchModel ListTrials EstimateTraining",
        # An exported model is out of our control, which is more than a prediction.
        Role.TRAINER: "CreateModel UpdateModel DeleteModel CancelModel ExportModel",
    },
    "sightline.v1.ModelAliasService": {
        Role.VIEWER: "GetModelAlias ListModelAliases",
        Role.TRAINER: "SetModelAlias RollBackModelAlias DeleteModelAlias",
    },
    "sightline.v1.EvaluationService": {
        Role.VIEWER: "GetEvaluation ListEvaluations WatchEvaluation CompareEvaluations",
        Role.TRAINER: "CreateEvaluation DeleteEvaluation",
    },
    "sightline.v1.ProjectService": {Role.VIEWER: "GetProject ListProjects"},
    "sightline.v1.PredictionService": {
        Role.VIEWER: "GetBatchPrediction ListBatchPredictions WatchBatchPrediction ListLoadedModels",
        Role.PREDICTOR: (
            "AnalyzeImage AnalyzeImages ExplainImage CreateBatchPrediction CancelBatchPrediction DeleteBatchPrediction"
            " ReadBatchPredictionFile LoadModel"
        ),
        Role.TRAINER: "SuggestImages",  # all callers' images are more than a prediction
        Role.ADMIN: "UnloadModel",  # all callers of the replica then wait for the next load
    },
    "sightline.v1.AuditService": {Role.ADMIN: "ListAuditEvents"},
    "inference.GRPCInferenceService": {
        Role.VIEWER: "ServerMetadata ModelReady ModelMetadata RepositoryIndex",
        Role.PREDICTOR: "ModelInfer ModelStreamInfer RepositoryModelLoad",
        Role.ADMIN: "RepositoryModelUnload",
    },
    "grpc.reflection.v1alpha.ServerReflection": {Role.VIEWER: "ServerReflectionInfo"},
    "grpc.reflection.v1.ServerReflection": {Role.VIEWER: "ServerReflectionInfo"},
}

POLICY: Mapping[str, Role] = {
    f"/{service}/{rpc}": role
    for service, rpcs in _BY_SERVICE.items()
    for role, names in rpcs.items()
    for rpc in names.split()
}

# Probes and load balancers have no token; all they learn is whether a service works.
OPEN = frozenset(
    {
        *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List"),
        *("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"),
    }
)


def may(held: Iterable[Role], wanted: Role) -> bool:
    """Whether any of the roles includes the required one."""
    return any(wanted in _INCLUDED[role] for role in held)
