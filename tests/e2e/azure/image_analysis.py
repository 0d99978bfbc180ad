"""With azure-ai-vision-imageanalysis: predictions of a custom model, for bytes and for a blob's URL.

python image_analysis.py ENDPOINT KEY MODEL IMAGE URL
"""

import json
import sys
from pathlib import Path

from azure.ai.vision.imageanalysis import ImageAnalysisClient
from azure.ai.vision.imageanalysis.models import VisualFeatures
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError

endpoint, key, model, image, url = sys.argv[1:]
client = ImageAnalysisClient(endpoint, AzureKeyCredential(key))
features, named = [VisualFeatures.TAGS], {"model-name": model}
by_bytes = client.analyze(Path(image).read_bytes(), visual_features=features, params=named)
by_url = client.analyze_from_url(url, visual_features=features, params=named)
default = client.analyze(Path(image).read_bytes(), visual_features=features)
try:
    client.analyze(b"no image at all", visual_features=features, params=named)
    refusal = None
except HttpResponseError as error:
    refusal = [error.status_code, error.error.code, error.reason]
print(
    json.dumps(
        {
            "bytes": by_bytes["customModelResult"]["tagsResult"]["values"],
            "url": by_url["customModelResult"]["tagsResult"]["values"],
            "width": by_bytes.metadata.width,
            "version": by_bytes.model_version,
            "default": [[tag.name, tag.confidence] for tag in default.tags.list],
            "refusal": refusal,
        }
    )
)
