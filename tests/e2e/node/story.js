// The story in another language, from the protos alone: upload → create → wait → train → wait → analyze.
//
//   node story.js PROTOS DATASET_ADDRESS TRAINER_ADDRESS PREDICTOR_ADDRESS FOLDER PREFIX
//
// FOLDER holds train.json and test.json with their images. The last line printed is a JSON summary.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protos, datasetAddress, trainerAddress, predictorAddress, folder, prefix] = process.argv.slice(2);
const CHUNK_BYTES = 1024 * 1024;

const definition = loader.loadSync(
  ["dataset_service", "model_service", "prediction_service"].map((name) => `sightline/v1/${name}.proto`),
  { includeDirs: [protos], longs: String, enums: String, defaults: false, oneofs: true },
);
const { v1 } = grpc.loadPackageDefinition(definition).sightline;
const insecure = grpc.credentials.createInsecure();
const options = {
  "grpc.max_receive_message_length": 24 * 1024 * 1024,
  // Calls go to new replicas too, and are repeated while a server restarts; not the streams of requests, which are not kept.
  "grpc.service_config": JSON.stringify({
    loadBalancingConfig: [{ round_robin: {} }],
    methodConfig: [
      {
        name: [{}],
        retryPolicy: {
          maxAttempts: 5,
          initialBackoff: "0.2s",
          maxBackoff: "3s",
          backoffMultiplier: 3,
          retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
        },
      },
      {
        name: [
          { service: "sightline.v1.DatasetService", method: "UploadFiles" },
          { service: "sightline.v1.PredictionService", method: "AnalyzeImages" },
        ],
      },
    ],
  }),
};
const datasets = new v1.DatasetService(datasetAddress, insecure, options);
const models = new v1.ModelService(trainerAddress, insecure, options);
const predictions = new v1.PredictionService(predictorAddress, insecure, options);

const call = (client, rpc, request) =>
  new Promise((resolve, reject) =>
    client[rpc](request, { deadline: Date.now() + 30_000 }, (error, answer) => (error ? reject(error) : resolve(answer))),
  );

// The last message of a Watch stream, which ends after the resource's final state.
const watch = (client, rpc, name, field) =>
  new Promise((resolve, reject) => {
    let last;
    client[rpc]({ name })
      .on("data", (message) => (last = message[field]))
      .on("error", reject)
      .on("end", () => resolve(last));
  });

// Uploads a COCO file and its images in one stream; returns the COCO file's uri.
async function upload(coco) {
  const named = JSON.parse(fs.readFileSync(path.join(folder, coco))).images.map((image) => image.file_name);
  const answer = await new Promise((resolve, reject) => {
    const stream = datasets.UploadFiles((error, response) => (error ? reject(error) : resolve(response)));
    stream.write({ header: {} });
    for (const file of [coco, ...named]) {
      const bytes = fs.readFileSync(path.join(folder, file));
      const sha256 = crypto.createHash("sha256").update(bytes).digest("hex");
      stream.write({ file: { path: file, sha256, sizeBytes: bytes.length } });
      for (let at = 0; at < bytes.length; at += CHUNK_BYTES) stream.write({ chunk: bytes.subarray(at, at + CHUNK_BYTES) });
    }
    stream.end();
  });
  return answer.files.find((file) => file.path === coco).uri;
}

async function register(coco, id) {
  const dataset = { annotationKind: "IMAGE_CLASSIFICATION", annotationFileUris: [await upload(coco)] };
  const created = await call(datasets, "CreateDataset", { datasetId: id, dataset });
  const ended = await watch(datasets, "WatchDataset", created.name, "dataset");
  if (ended.state !== "READY") throw new Error(`${created.name} is ${ended.state}: ${ended.error?.message}`);
  return ended;
}

async function main() {
  const training = await register("train.json", `${prefix}-train`);
  const test = await register("test.json", `${prefix}-test`);
  const created = await call(models, "CreateModel", {
    modelId: prefix,
    model: {
      trainingParameters: {
        trainingDataset: training.name,
        timeBudget: { seconds: 60 },
        modelKind: "GENERIC_CLASSIFIER",
      },
      evaluationParameters: { testDataset: test.name },
    },
  });
  const model = await watch(models, "WatchModel", created.name, "model");
  if (model.state !== "SUCCEEDED") throw new Error(`${model.name} is ${model.state}: ${model.error?.message}`);
  const image = fs.readFileSync(path.join(folder, JSON.parse(fs.readFileSync(path.join(folder, "test.json"))).images[0].file_name));
  const answer = await call(predictions, "AnalyzeImage", { modelName: model.name, image, scoreThreshold: 0 });
  const missing = await call(datasets, "GetDataset", { name: "datasets/nope" }).catch((error) => error);
  console.log(
    JSON.stringify({
      images: training.stats.imageCount,
      top1: model.performance.accuracyTop1,
      tags: answer.customModelResult.tagsResult.values,
      width: answer.metadata.width,
      missing: missing.code,
    }),
  );
  for (const client of [datasets, models, predictions]) client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
