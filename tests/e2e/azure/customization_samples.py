"""With cognitive-service-vision-model-customization-python-samples, from registration to prediction.

    python customization_samples.py ENDPOINT KEY BLOBS FOLDER

Prints what it got as JSON.
"""

import json
import sys
from pathlib import Path

from cognitive_service_vision_model_customization_python_samples import (
    AnnotationKind,
    Authentication,
    Dataset,
    DatasetClient,
    Evaluation,
    EvaluationClient,
    EvaluationParameters,
    Model,
    ModelKind,
    PredictionClient,
    ResourceType,
    TrainingClient,
    TrainingParameters,
)

HOURS = 0.01
endpoint, key, blobs, folder = sys.argv[1:]
words = (ResourceType.MULTI_SERVICE_RESOURCE, "", endpoint, key)
datasets, training, predictions = DatasetClient(*words), TrainingClient(*words), PredictionClient(*words)
evaluations = EvaluationClient(*words)
kind = AnnotationKind.MULTICLASS_CLASSIFICATION
for name in ("train", "test"):
    sas = Authentication("sas", "sv=2022&sig=secret")
    dataset = Dataset(f"trees-{name}", kind, [f"{blobs}/hemlock_cherry/{name}.json"], sas, {"made": "by a sample"})
    registered = datasets.register_dataset(dataset)
    assert registered.annotation_file_uris == dataset.annotation_file_uris
    assert registered.created_date_time
assert datasets.query_dataset("trees-test").annotation_kind == kind
assert datasets.update_dataset(dataset).name == "trees-test"

parameters = TrainingParameters("trees-train", HOURS, ModelKind.GENERIC_IC)
training.train_model(Model("trees", parameters, EvaluationParameters("trees-test")))
training.train_model(Model("given-up", parameters))
training.cancel_model_training("given-up")
model = training.wait_for_training_completion("trees", 1)
given_up = training.wait_for_training_completion("given-up", 1)
evaluations.evaluate(Evaluation("again", "trees", "trees-test"))
evaluation = evaluations.wait_for_completion("again", "trees", 1)

right = 0
coco = json.loads((Path(folder) / "hemlock_cherry/test.json").read_text())
names = {one["id"]: one["name"] for one in coco["categories"]}
truth = {one["image_id"]: names[one["category_id"]] for one in coco["annotations"]}
for image in coco["images"]:
    content = (Path(folder) / "hemlock_cherry" / image["file_name"]).read_bytes()
    values = predictions.predict("trees", content)["customModelResult"]["tagsResult"]["values"]
    right += values[0]["name"] == truth[image["id"]]

training.delete_model_evaluation("trees", "again")
training.delete_model("given-up")
datasets.delete_dataset("trees-test")
print(
    json.dumps(
        {
            "status": model.status.value,
            "minutes": model.training_cost_in_minutes,
            "performance": model.model_performance,
            "given_up": given_up.status.value,
            "evaluated": evaluation.model_performance,
            "right": right,
            "images": len(truth),
        }
    )
)
