"""With irisml-tasks-azure-computervision: a detector, and its predictions as tensors.

    python irisml_tasks.py ENDPOINT KEY BLOBS FOLDER

Its training task uploads to Azure's storage first; here, the same client registers files that are in the store.
"""

import json
import sys
import time
from pathlib import Path

import PIL.Image
from irisml.tasks import (
    create_azure_computervision_classification_model,
    create_azure_computervision_custom_model,
)
from irisml.tasks.train_azure_computervision_custom_model import UVSClient

HOURS = 0.012
endpoint, key, blobs, folder = sys.argv[1:]
client = UVSClient(endpoint, key)
for name in ("train", "test"):
    client.register_dataset(f"tools-{name}", "object_detection", f"{blobs}/fork_scissors/{name}.json", name == "train")
client.create_model("tools-train", "tools", "Generic-Detector", HOURS, "tools-test")
while (model := client.get_model("tools"))["status"].lower() in ("notstarted", "training"):
    time.sleep(1)

coco = json.loads((Path(folder) / "fork_scissors/test.json").read_text())
images = [PIL.Image.open(Path(folder) / "fork_scissors" / one["file_name"]).convert("RGB") for one in coco["images"]]
custom = create_azure_computervision_custom_model.Task
config = custom.Config(endpoint, key, "tools", "object_detection", strict=True)
found = custom(config).execute(custom.Inputs([one["name"] for one in coco["categories"]])).model(images)

tagging = create_azure_computervision_classification_model.Task
tags = tagging(tagging.Config(endpoint, key, strict=True)).execute(tagging.Inputs()).model(images[:1])

client.unregister_dataset("tools-test")
print(
    json.dumps(
        {
            "status": model["status"],
            "performance": model["modelPerformance"],
            "boxes": [one.shape[0] for one in found],
            "inside": all(bool(((one[:, 2:] >= 0) & (one[:, 2:] <= 1)).all()) for one in found if len(one)),
            "tags": tags,
        }
    )
)
