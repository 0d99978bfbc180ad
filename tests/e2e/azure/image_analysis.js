// With @azure-rest/ai-vision-image-analysis: predictions of a custom model, for bytes and for a blob's URL.
//
//   node image_analysis.js ENDPOINT KEY MODEL IMAGE URL
"use strict";

const fs = require("node:fs");
const createClient = require("@azure-rest/ai-vision-image-analysis").default;
const { AzureKeyCredential } = require("@azure/core-auth");

const [endpoint, key, model, image, url] = process.argv.slice(2);
const client = createClient(endpoint, new AzureKeyCredential(key));
const queryParameters = { features: ["Tags"], "model-name": model };

async function main() {
  const path = client.path("/imageanalysis:analyze");
  const bytes = await path.post({ body: fs.readFileSync(image), queryParameters, contentType: "application/octet-stream" });
  const byUrl = await path.post({ body: { url }, queryParameters, contentType: "application/json" });
  const refused = await path.post({ body: Buffer.from("no image"), queryParameters, contentType: "application/octet-stream" });
  console.log(
    JSON.stringify({
      bytes: bytes.body.customModelResult.tagsResult.values,
      url: byUrl.body.customModelResult.tagsResult.values,
      width: bytes.body.metadata.width,
      refusal: [Number(refused.status), refused.body.error.code, refused.headers["x-ms-error-code"]],
    }),
  );
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
