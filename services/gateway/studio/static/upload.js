// A new dataset: the server reads what was dropped as its command does, then the images are sent file by file.

import {chosen, dragged, zipped} from "./gather.js";
import {fill, make, problem, send} from "./studio.js";

const AT_ONCE = 4, TRIES = 5, NAMED = 5, BARS = 30, EMBEDDED = 2 ** 18, MOST = 2 ** 28; // bytes of one file: with a picture within, and at all
const place = document.getElementById("new"), root = place.dataset.root, limit = Number(place.dataset.limit);
const text = JSON.parse(place.dataset.text), suffixes = JSON.parse(place.dataset.suffixes), read = JSON.parse(place.dataset.read);
const [area, understood, form, options, sent, trouble] = ["drop", "understood", "register", "options", "sent", "problem"].map((id) => document.getElementById(id));
let dropped = null, plan = null, latest = 0, suggested = "";

const ends = (path, endings) => endings.some((ending) => path.toLowerCase().endsWith(ending));
const last = (path) => path.split("/").at(-1);
const named = (paths) => paths.slice(0, NAMED).map(last).join(", ") + (paths.length > NAMED ? ", …" : "");
const size = (bytes) => `${Math.round(bytes / 2 ** 20)} MiB`;
const list = (lines) => make("ul", {}, ...lines.map((line) => make("li", {}, line)));

function fail(error) {
  const shown = problem(error), {faults = [], more, fix} = error;
  if (faults.length) shown.append(list(faults));
  if (more) shown.append(make("p", {}, fill(text.more_faults, {count: more})));
  if (fix) shown.append(make("p", {}, fill(text.fix, {fix})));
  trouble.replaceChildren(shown);
}

/** What the server needs to know of the files: where each is, and what is in those that may hold labels. */
async function described() {
  const parts = [], files = [];
  let total = 0;
  for (const file of dropped.files) {
    const sends = ends(file.path, read);
    if (sends && file.size > MOST) throw tooLarge(file.size);
    const body = sends && await content(file);
    files.push([file.path, sends ? body.size : file.size, sends]);
    if (sends) parts.push(body);
    total += sends ? body.size : 0;
    if (total > limit) throw tooLarge(total);
  }
  const splits = [...document.querySelectorAll("#splits [name=split]")], wanted = splits.filter((one) => one.checked).map((one) => one.value);
  const choice = {form: options.elements.form.value || null, boxes: options.elements.boxes.value || null, splits: wanted.length < splits.length ? wanted : []};
  const whole = new Blob([JSON.stringify({name: dropped.name || text.dropped, files, ...choice}), "\n", ...parts]);
  if (whole.size > limit) throw tooLarge(whole.size);
  return whole;
}

const tooLarge = (bytes) => new Error(fill(text.annotations_too_large, {size: size(bytes), limit: size(limit)}));

/** A file's content; without the images that LabelMe writes into its files, which are beside them, too. */
async function content(file) {
  const body = await file.read();
  if (body.size < EMBEDDED || !ends(file.path, [".json"])) return body;
  const whole = await body.text(), without = whole.replace(/("imageData"\s*:\s*)"[\w+/=\\]*"/, "$1null");
  return without === whole ? body : new Blob([without]);
}

/** Has the drop read, and shows what was understood; the latest of several wins. */
async function understand() {
  const turn = ++latest;
  trouble.replaceChildren();
  form.querySelector("button").disabled = true;
  document.getElementById("reading").hidden = false;
  try {
    if (!dropped.files.length) throw new Error(text.no_files);
    const found = await send(`${root}/drops`, await described(), text.unreachable);
    if (turn !== latest) return;
    if (found.problem) throw refused(found.problem);
    const name = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    plan = {...found, upload: name};
    show();
  } catch (error) {
    if (turn === latest) { fail(error); understood.hidden = true; }
  }
  if (turn !== latest) return;
  document.getElementById("reading").hidden = true;
  document.getElementById("differently").hidden = !dropped.files.length;
}

/** What the importers say as an error; they say nothing of an export that took too much memory or time. */
function refused({message, reason, fix, ...more}) {
  return Object.assign(new Error(message ?? text.not_readable), more, {fix: reason === "images" ? text.fix_images : fix});
}

function show() {
  const detection = plan.kind === "detection", marks = plan.categories.reduce((sum, one) => sum + one[2], 0);
  const facts = {images: plan.images.length, annotations: marks, categories: plan.categories.length};
  for (const [name, value] of Object.entries(facts)) document.getElementById(`fact-${name}`).textContent = value.toLocaleString(document.documentElement.lang);
  const format = options.elements.form.querySelector(`[value="${plan.format}"]`).textContent;
  document.getElementById("summary").textContent = fill(text.understood, {format, kind: text[`kind_${plan.kind}`]});
  const bars = plan.categories.map(([name, images, drawn]) => [name, detection ? drawn : images]).sort((a, b) => b[1] - a[1]);
  const most = Math.max(...bars.map((one) => one[1]), 1);
  document.getElementById("classes").replaceChildren(...bars.slice(0, BARS).map(([name, count]) => bar(name, count, most)));
  const notes = noted(bars.length);
  document.getElementById("notes").replaceChildren(...notes.map((line) => make("li", {}, line)));
  document.getElementById("notes").hidden = !notes.length;
  choose(plan.splits);
  document.getElementById("boxes").hidden = !detection;
  const name = form.elements.id;
  if (!name.value || name.value === suggested) name.value = suggested = suggestion(dropped.name);
  form.querySelector("button").disabled = !plan.images.length;
  if (understood.hidden) { understood.hidden = false; understood.focus(); }
}

/** What a person should know before the upload. */
function noted(categories) {
  const named_ = new Set([...plan.images.map((one) => one[0]), ...plan.large]);
  const unnamed = dropped.files.map((file) => file.path).filter((path) => !named_.has(path) && !ends(path, read));
  const [images, others] = [true, false].map((wanted) => unnamed.filter((path) => ends(path, suffixes) === wanted));
  const said = [];
  if (categories > BARS) said.push(fill(text.more_categories, {count: categories - BARS}));
  if (plan.unlabelled) said.push(fill(text.unlabelled, {count: plan.unlabelled}));
  if (images.length) said.push(fill(text.unnamed, {count: images.length, names: named(images)}));
  if (plan.large.length) said.push(fill(text.too_large, {count: plan.large.length, limit: size(plan.max_image_bytes), names: named(plan.large)}));
  if (others.length) said.push(fill(text.left_out, {count: others.length, names: named(others)}));
  if (plan.unused.length) said.push(fill(text.unused, {names: plan.unused.slice(0, 4 * NAMED).join(", ")}));
  return [...said, ...plan.notes];
}

/** A box to tick for each split, kept while the same drop is shown. */
function choose(splits) {
  const listed = Object.entries(splits), fields = document.getElementById("splits");
  fields.hidden = listed.length < 2;
  if (fields.dataset.shown === JSON.stringify(listed)) return;
  fields.dataset.shown = JSON.stringify(listed);
  fields.querySelector("div").replaceChildren(...(fields.hidden ? [] : listed).map(([name, count]) => make("label", {className: "tick"},
    make("input", {type: "checkbox", name: "split", value: name, checked: true}), `${text[`split_${name || "none"}`]} (${count})`)));
}

function suggestion(name) {
  return name.replace(/\.zip$/i, "").normalize("NFKD").replace(/[^a-zA-Z0-9._-]+/g, "-").replace(/^[^a-zA-Z0-9]+|-+$/g, "").slice(0, 100);
}

function bar(name, count, most) {
  const frame = document.createElementNS("http://www.w3.org/2000/svg", "svg"), mark = document.createElementNS(frame.namespaceURI, "rect");
  for (const [key, value] of [["width", `${100 * count / most}%`], ["height", "14"], ["rx", "3"]]) mark.setAttribute(key, value);
  frame.setAttribute("height", "14");
  frame.append(mark);
  return make("li", {}, make("span", {}, name), frame, make("span", {className: "number"}, String(count)));
}

/** Sends a file; a server that is busy or away is asked again. */
async function deliver(upload, path, body) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await send(`${root}/uploads/${upload}/file?path=${encodeURIComponent(path)}`, body, text.unreachable);
    } catch (error) {
      if (tries === TRIES || ![undefined, 429, 503, 504].includes(error.status)) throw error;
      await new Promise((done) => setTimeout(done, 1000 * (error.after || 2 ** tries)));
    }
  }
}

/** Sends the images and the annotation file; resolves to the uri of the latter. */
async function upload() {
  const name = plan.upload, files = new Map(dropped.files.map((file) => [file.path, file])), labels = plan.annotations;
  const waiting = plan.images.map(([path, to]) => async () => deliver(name, to, await files.get(path).read()));
  let uri = "";
  waiting.push(async () => {
    const body = labels.file ? await files.get(labels.file).read() : new Blob([labels.content]);
    ({uri} = await deliver(name, labels.path, body));
  });
  const [shown, words] = sent.children, total = waiting.length;
  let done = 0;
  sent.hidden = false;
  const work = async () => {
    for (let step = waiting.shift(); step; step = waiting.shift()) {
      await step();
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
  const button = form.querySelector("button"), fields = {...Object.fromEntries(new FormData(form)), kind: plan.kind};
  const register = (more) => send(`${root}/datasets`, new URLSearchParams({...fields, ...more}), text.unreachable);
  button.disabled = true;
  try {
    await register({validate_only: "1"}); // a name that is taken is told before the upload, not after it
    const {onward} = await register({uri: await upload()});
    location.assign(onward);
  } catch (error) { fail(error); sent.hidden = true; }
  button.disabled = false;
});

async function take(gathered) {
  try {
    dropped = await gathered;
  } catch { fail(new Error(text.not_zip)); return; }
  understood.hidden = true;
  options.reset();
  choose({});
  await understand();
}

options.addEventListener("change", understand);
document.getElementById("splits").addEventListener("change", ({target}) => {
  if (document.querySelector("#splits :checked")) { understand(); return; }
  target.checked = true;
  fail(new Error(text.no_split));
});
options.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("folder").addEventListener("change", ({target}) => { if (target.files.length) take(chosen(target.files)); });
document.getElementById("zip").addEventListener("change", ({target}) => { if (target.files[0]) take(zipped(target.files[0])); });
for (const input of document.querySelectorAll("#folder, #zip")) {
  if (input.files.length) input.dispatchEvent(new Event("change")); // chosen before this script was there
  input.addEventListener("click", () => { input.value = ""; }); // the same folder again, after something was corrected in it
}
addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) area.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  area.classList.remove("over");
  take(dragged(event.dataTransfer));
});
