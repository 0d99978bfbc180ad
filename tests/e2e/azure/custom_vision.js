// With @azure/cognitiveservices-customvision-prediction: predictions of a published iteration.
//
//   node custom_vision.js ENDPOINT KEY PROJECT IMAGE URL
"use strict";

const fs = require("node:fs");
const { ApiKeyCredentials } = require("@azure/ms-rest-js");
const { PredictionAPIClient } = require("@azure/cognitiveservices-customvision-prediction");

const [endpoint, key, project, image, url] = process.argv.slice(2);
const client = new PredictionAPIClient(new ApiKeyCredentials({ inHeader: { "Prediction-key": key } }), endpoint);

async function main() {
  const bytes = await client.classifyImage(project, "live", fs.readFileSync(image));
  const byUrl = await client.classifyImageUrl(project, "live", { url });
  const refused = await client.classifyImage(project, "unknown", fs.readFileSync(image)).catch((error) => error);
  console.log(
    JSON.stringify({
      bytes: bytes.predictions.map((one) => [one.tagName, one.probability]),
      url: byUrl.predictions.map((one) => [one.tagName, one.probability]),
      project: bytes.project,
      refusal: [refused.statusCode, refused.body.code],
    }),
  );
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
