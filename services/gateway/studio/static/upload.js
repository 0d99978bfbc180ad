// A new dataset: what was dropped is read here, understood, and sent file by file.

import {fill, make, problem, send} from "./studio.js";
import {entries} from "./zip.js";

const IMAGE = /\.(jpe?g|png|bmp|gif|tiff?|webp)$/i, HIDDEN = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|desktop\.ini$)/i;
const AT_ONCE = 4, TRIES = 5, NAMED = 5, COCO_BYTES = 256 * 2 ** 20;
const place = document.getElementById("new"), root = place.dataset.root, limit = Number(place.dataset.limit);
const text = JSON.parse(place.dataset.text);
const [drop, understood, form, sent, trouble] = ["drop", "understood", "register", "sent", "problem"].map((id) => document.getElementById(id));
let plan = null;

const fail = (error) => trouble.replaceChildren(problem(error));
const last = (path) => path.split("/").at(-1);
const named = (files) => files.slice(0, NAMED).map((file) => last(file.path)).join(", ") + (files.length > NAMED ? ", …" : "");

/** The files below a folder that was dropped. */
async function walk(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{path: path + entry.name, size: file.size, read: async () => file}];
  }
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const one of some) found.push(...await walk(one, `${path}${entry.name}/`));
  }
}

async function unzip(file) {
  try { return await entries(file); } catch { throw new Error(text.not_zip); }
}

/** The COCO file among the files, parsed; null if there is none. */
async function coco(files) {
  const found = [];
  for (const file of files.filter((one) => /\.json$/i.test(one.path) && one.size <= COCO_BYTES)) {
    try {
      const content = JSON.parse(await (await file.read()).text());
      if (Array.isArray(content.images) && Array.isArray(content.annotations)) found.push({file, content});
    } catch { /* a JSON file of another kind is no image either, and is reported as left out */ }
  }
  if (found.length > 1) throw new Error(fill(text.several_coco, {files: found.map((one) => one.file.path).join(", ")}));
  return found[0] ?? null;
}

/** A COCO file for images that lie in a folder for each class. */
function annotate(images) {
  const folder = (file) => file.path.split("/").slice(0, -1).at(-1) ?? "";
  const names = [...new Set(images.map(folder))].sort();
  if (names.length < 2) throw new Error(text.no_classes);
  const content = {
    images: images.map((file, id) => ({id: id + 1, file_name: file.path})),
    categories: names.map((name, id) => ({id: id + 1, name})),
    annotations: images.map((file, id) => ({id: id + 1, image_id: id + 1, category_id: names.indexOf(folder(file)) + 1})),
  };
  const body = new Blob([JSON.stringify(content)], {type: "application/json"});
  return {content, file: {path: "sightline-classes.json", size: body.size, read: async () => body}, made: true};
}

function counts(content) {
  const names = new Map(content.categories?.map((one) => [one.id, one.name])), found = new Map();
  for (const one of content.annotations) found.set(names.get(one.category_id) ?? "?", (found.get(names.get(one.category_id) ?? "?") ?? 0) + 1);
  return [...found].sort((a, b) => b[1] - a[1]);
}

async function understand(files) {
  trouble.replaceChildren();
  understood.hidden = true;
  const seen = files.filter((file) => !HIDDEN.test(file.path));
  const all = seen.filter((file) => IMAGE.test(file.path)), images = all.filter((file) => file.size <= limit);
  if (!images.length) throw new Error(text.no_images);
  const labels = await coco(seen) ?? annotate(images);
  const detection = labels.content.annotations.some((one) => one.bbox?.length);
  const others = seen.filter((file) => !IMAGE.test(file.path) && file !== labels.file), large = all.filter((file) => file.size > limit);
  plan = {files: [...images, labels.file], labels: labels.file, kind: detection ? "detection" : "classification"};
  const classes = counts(labels.content), most = Math.max(...classes.map((one) => one[1]), 1);
  document.getElementById("summary").textContent = labels.made
    ? fill(text.classes, {images: images.length, classes: classes.length})
    : fill(text.coco, {file: labels.file.path, images: images.length, kind: text[`kind_${plan.kind}`]});
  document.getElementById("classes").replaceChildren(...classes.slice(0, 30).map(([name, count]) => bar(name, count, most)));
  const left = document.getElementById("left-out"), said = [];
  if (others.length) said.push(fill(text.left_out, {count: others.length, names: named(others)}));
  if (large.length) said.push(fill(text.too_large, {count: large.length, limit: `${limit / 2 ** 20} MiB`, names: named(large)}));
  left.textContent = said.join(" ");
  left.hidden = !said.length;
  form.elements.id.value ||= suggestion(files);
  understood.hidden = false;
  form.elements.id.focus();
}

function suggestion(files) {
  const top = files[0].path.includes("/") ? files[0].path.split("/")[0] : "";
  return top.normalize("NFKD").replace(/[^a-zA-Z0-9._-]+/g, "-").replace(/^[^a-zA-Z0-9]+|-+$/g, "").slice(0, 100);
}

function bar(name, count, most) {
  const frame = document.createElementNS("http://www.w3.org/2000/svg", "svg"), mark = document.createElementNS(frame.namespaceURI, "rect");
  for (const [key, value] of [["width", `${100 * count / most}%`], ["height", "14"], ["rx", "3"]]) mark.setAttribute(key, value);
  frame.setAttribute("height", "14");
  frame.append(mark);
  return make("li", {}, make("span", {}, name), frame, make("span", {className: "number"}, String(count)));
}

/** Sends a file; a server that is busy or away is asked again. */
async function deliver(upload, file) {
  const body = await file.read();
  for (let tries = 1; ; tries += 1) {
    try {
      return await send(`${root}/uploads/${upload}/file?path=${encodeURIComponent(file.path)}`, body, text.unreachable);
    } catch (error) {
      if (tries === TRIES || ![undefined, 429, 503, 504].includes(error.status)) throw error;
      await new Promise((done) => setTimeout(done, 1000 * (error.after || 2 ** tries)));
    }
  }
}

async function upload() {
  const name = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const [shown, words] = sent.children, waiting = [...plan.files], total = waiting.length;
  let done = 0, uri = "";
  sent.hidden = false;
  const work = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const answer = await deliver(name, file);
      if (file === plan.labels) uri = answer.uri;
      shown.value = ++done / total;
      words.textContent = fill(text.sent, {done, total});
    }
  };
  try {
    await Promise.all(Array.from({length: AT_ONCE}, work));
  } catch (error) { waiting.length = 0; throw error; }
  words.textContent = text.registering;
  return uri;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  trouble.replaceChildren();
  const button = form.querySelector("button"), fields = {id: form.elements.id.value.trim(), kind: plan.kind};
  const register = (more) => send(`${root}/datasets`, new URLSearchParams({...fields, ...more}), text.unreachable);
  button.disabled = true;
  try {
    await register({validate_only: "1"}); // a name that is taken is told before the upload, not after it
    const {onward} = await register({uri: await upload()});
    location.assign(onward);
  } catch (error) { fail(error); sent.hidden = true; }
  button.disabled = false;
});

const take = (files) => files.then(understand).catch(fail);
document.getElementById("folder").addEventListener("change", (event) => {
  take(Promise.resolve([...event.target.files].map((file) => ({path: file.webkitRelativePath, size: file.size, read: async () => file}))));
});
document.getElementById("zip").addEventListener("change", (event) => { if (event.target.files[0]) take(unzip(event.target.files[0])); });
for (const input of document.querySelectorAll("#folder, #zip")) {
  if (input.files.length) input.dispatchEvent(new Event("change")); // chosen before this script was there
}
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const dropped = event.dataTransfer, one = dropped.files[0];
  if (dropped.files.length === 1 && /\.zip$/i.test(one.name)) { take(unzip(one)); return; }
  const found = [...dropped.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  take(Promise.all(found.map((entry) => walk(entry))).then((parts) => parts.flat()));
});
