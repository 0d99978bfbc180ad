// The page on which labels are corrected: pictures, the editor, categories, and saving a new version.

import {forget, kept} from "./drafts.js";
import {at, drawn, entriesOf, Labels, moved, read} from "./labelling.js";
import {ask, fill, make, problem, send} from "./studio.js";

const PAGE = 24, REACH = 9, STEP = 10; // pixels of the screen around a corner; pixels that a key moves with Shift
const COLOURS = ["#00a58e", "#e0662f", "#3f7fe0", "#c23b85", "#8a63d2", "#b08900", "#2f9e44", "#d6336c"];
const part = (id) => document.getElementById(id);
const place = part("labels"), text = JSON.parse(place.dataset.text), url = place.dataset.url, detection = Boolean(place.dataset.detection);
const canvas = part("canvas"), pen = canvas.getContext("2d"), category = part("category"), filter = part("filter");
let labels, entries, digest, drafts = [], shown = [], page = 0, current = null, position = 0, selected = -1, bitmap = null, gesture = null, saving = false;

const colour = (name) => COLOURS[Math.abs([...name].reduce((sum, letter) => sum * 31 + letter.codePointAt(0) | 0, 0)) % COLOURS.length];
const source = (image, kind = "images") => image.blob ? URL.createObjectURL(image.blob) : `${url}/${kind}/${image.id}?v=${image.tag}`;
const namesOf = (image) => [...new Set((detection ? image.boxes.map((box) => box.category) : [image.category]).map((id) => labels.categories.get(id)))].filter((name) => name !== undefined);
const fail = (error) => part("problem").replaceChildren(problem(error));

async function load() {
  const [found, file] = await Promise.all(["records", "annotations"].map((what) => ask(`${url}/${what}`, text.unreachable)));
  const {head, images} = await read(found);
  if (images.length !== head.count) throw new Error(text.broken_off_labels);
  labels = new Labels(head, images, detection);
  digest = head.digest;
  entries = entriesOf(await file.json(), labels);
  if (!entries) throw new Error(text.unknown_images);
  drafts = await kept(place.dataset.dataset).catch(() => []);
  for (const draft of drafts) add(draft);
  part("loading").hidden = true;
  part("work").hidden = false;
  list();
  if (drafts.length) edit([...labels.images.values()].at(-1));
}

/** Adds an image of the page for trying models. */
function add(draft) {
  const marks = detection ? draft.boxes.map((box) => ({...box, category: labels.named(box.name), crowd: 0})) : [];
  labels.add({
    file: draft.name, width: draft.width, height: draft.height, blob: draft.blob, path: draft.path,
    category: detection ? null : labels.named(draft.category), boxes: marks,
  }, entries);
}

// Pictures and categories

function list() {
  const names = [...labels.counts()].sort((a, b) => b[1] - a[1]), wanted = filter.value;
  filter.replaceChildren(filter.options[0], ...names.map(([name]) => make("option", {value: name, textContent: name})));
  filter.value = names.some(([name]) => name === wanted) ? wanted : "";
  part("names").replaceChildren(...names.map(([name]) => make("option", {value: name})));
  shown = [...labels.images.values()].filter((image) => !filter.value || namesOf(image).includes(filter.value));
  if (labels.changes && drafts.length && !filter.value) shown.reverse(); // what is to be corrected comes first
  located();
  page = Math.min(page, Math.max(0, Math.ceil(shown.length / PAGE) - 1));
  part("pictures").replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(picture));
  part("pages-before").disabled = page === 0;
  part("pages-after").disabled = (page + 1) * PAGE >= shown.length;
  part("categories").replaceChildren(...names.map(row));
  told();
}

function told() {
  const count = labels.changes;
  part("changes").textContent = count ? fill(text.changes, {count}) : text.no_changes;
  part("save").disabled = part("undo").disabled = saving || !count;
}

function picture(image) {
  const button = make("button", {type: "button", className: "picture"},
    make("img", {loading: "lazy", alt: image.file, src: source(image, "thumbnails")}), make("span", {}, namesOf(image).join(", ") || text.no_box));
  button.addEventListener("click", () => edit(image));
  return make("li", {}, button);
}

function row([name, count], number) {
  const input = make("input", {value: name, maxLength: 200, id: `name-${number}`, spellcheck: false});
  const label = make("label", {htmlFor: input.id}, make("span", {className: "quiet small"}, fill(text.used, {count})));
  input.setAttribute("list", "names");
  input.ariaLabel = name;
  input.addEventListener("change", () => { labels.rename(name, input.value.trim()); list(); refresh(); });
  return make("li", {}, input, label);
}

// The editor

/** Remembers where the current picture is among those that are shown, or was before the filter hid it. */
function located() {
  position = Math.min(shown.includes(current) ? shown.indexOf(current) : position, shown.length);
}

async function edit(image) {
  current = image;
  located();
  selected = detection && image.boxes.length ? 0 : -1;
  bitmap = null;
  part("editor").hidden = false;
  part("editor-title").textContent = image.file;
  part("editor-title").focus();
  refresh();
  const picture = new Image();
  picture.src = source(image);
  try { await picture.decode(); } catch { /* the frame alone is shown: boxes can still be corrected */ }
  if (current === image) { bitmap = picture; paint(); }
}

function refresh() {
  if (!current) return;
  const box = current.boxes[selected];
  category.value = labels.categories.get(detection ? box?.category : current.category) ?? (detection ? category.value : "");
  if (detection) {
    part("boxes").replaceChildren(...current.boxes.map(boxButton));
    part("drop-box").disabled = !box;
  }
  paint();
}

function boxButton(box, index) {
  const name = labels.categories.get(box.category), sides = [box.x, box.y, box.w, box.h].map(Math.round).join(", ");
  const button = make("button", {type: "button"}, `${name} `, make("span", {className: "quiet small"}, sides));
  button.ariaPressed = String(index === selected);
  button.addEventListener("click", () => { selected = index; refresh(); part("boxes").children[index].firstChild.focus(); });
  return make("li", {}, button);
}

function paint() {
  const image = current, scale = Math.min(1, 1600 / Math.max(image.width, image.height));
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  canvas.ariaLabel = `${image.file}: ${namesOf(image).join(", ")}`;
  canvas.role = detection ? "application" : "img";
  if (bitmap?.naturalWidth) pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, canvas.width / (canvas.clientWidth || canvas.width));
  current.boxes.forEach((box, index) => frame(box, index === selected, scale, unit));
  if (gesture?.box) frame(gesture.box, true, scale, unit);
}

function frame(box, chosen, scale, unit) {
  const [x, y, w, h] = [box.x, box.y, box.w, box.h].map((side) => side * scale), name = labels.categories.get(box.category) ?? "";
  pen.strokeStyle = pen.fillStyle = colour(name);
  pen.lineWidth = (chosen ? 3 : 2) * unit;
  pen.strokeRect(x, y, w, h);
  pen.font = `600 ${13 * unit}px system-ui, sans-serif`;
  const wide = pen.measureText(name).width + 8 * unit, top = Math.max(0, y - 18 * unit);
  pen.fillRect(x, top, wide, 18 * unit);
  if (chosen) for (const [a, b] of [[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) pen.fillRect(a - 5 * unit, b - 5 * unit, 10 * unit, 10 * unit);
  pen.fillStyle = "#fff";
  pen.fillText(name, x + 4 * unit, top + 13 * unit);
}

const change = (boxes, chosen = selected) => { labels.box(current, boxes); selected = chosen; refresh(); told(); };
const replaced = (box) => current.boxes.map((one, index) => index === selected ? box : one);
const chosenCategory = () => labels.named(category.value.trim() || filter.value || labels.names[0] || "?");
const pointOf = (event) => {
  const frame = canvas.getBoundingClientRect(), scale = current.width / frame.width;
  return {x: (event.clientX - frame.left) * scale, y: (event.clientY - frame.top) * scale, scale};
};

if (detection) {
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    const from = pointOf(event), hit = at(current.boxes, selected, from, REACH * from.scale);
    gesture = {from, hit, start: hit && current.boxes[hit.index], box: null};
    if (hit) { selected = hit.index; refresh(); }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!gesture) return;
    const to = pointOf(event), {from, hit, start} = gesture;
    if (Math.hypot(to.x - from.x, to.y - from.y) < 3 * from.scale) return;
    const found = hit ? moved(start, hit.part, to.x - from.x, to.y - from.y, current) : drawn(from, to, current);
    gesture.box = found && {...found, category: hit ? start.category : chosenCategory(), crowd: hit ? start.crowd : 0};
    paint();
  });
  canvas.addEventListener("pointerup", () => {
    const {hit, box} = gesture ?? {};
    gesture = null;
    if (box) hit ? change(replaced(box)) : change([...current.boxes, box], current.boxes.length);
    else if (!hit) { selected = -1; refresh(); }
  });
  canvas.addEventListener("pointercancel", () => { gesture = null; paint(); });
  canvas.addEventListener("keydown", (event) => {
    const [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] ?? [0, 0];
    const box = current.boxes[selected], by = event.shiftKey ? STEP : 1;
    if (box && (dx || dy)) change(replaced(moved(box, event.altKey ? "se" : "inside", dx * by, dy * by, current)));
    else if (box && ["Delete", "Backspace"].includes(event.key)) remove();
    else if (box && event.key === "Escape") { selected = -1; refresh(); }
    else return;
    event.preventDefault();
  });
  part("add").addEventListener("click", () => {
    const [w, h] = [current.width / 3, current.height / 3];
    change([...current.boxes, {category: chosenCategory(), x: w, y: h, w, h, crowd: 0}], current.boxes.length);
    canvas.focus();
  });
  part("drop-box").addEventListener("click", () => { remove(); canvas.focus(); });
}

function remove() {
  const rest = current.boxes.filter((_, index) => index !== selected);
  change(rest, Math.min(selected, rest.length - 1));
}

category.addEventListener("change", () => {
  const name = category.value.trim();
  if (!name || !current) return;
  if (!detection) labels.label(current, name);
  else if (current.boxes[selected]) labels.box(current, replaced({...current.boxes[selected], category: labels.named(name)}));
  refresh();
  list();
});

/** Opens the picture before or after the current one, in whose place the next one is once the filter hides it. */
function beside(step) {
  const wanted = position + (shown.includes(current) ? step : Math.min(step, 0));
  if (!shown[wanted]) return;
  page = Math.floor(wanted / PAGE);
  edit(shown[wanted]);
  list();
}
part("previous").addEventListener("click", () => beside(-1));
part("next").addEventListener("click", () => beside(1));
part("pages-before").addEventListener("click", () => { page -= 1; list(); });
part("pages-after").addEventListener("click", () => { page += 1; list(); });
filter.addEventListener("change", () => { page = 0; list(); });

function undo() {
  if (saving || !labels?.changes) return;
  const id = labels.undo();
  if (current && !labels.images.has(current.id)) { current = null; part("editor").hidden = true; }
  if (id !== null && labels.images.get(id) !== current) edit(labels.images.get(id));
  selected = current ? Math.min(selected, current.boxes.length - 1) : -1;
  list();
  refresh();
}
part("undo").addEventListener("click", undo);
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !typing) { event.preventDefault(); undo(); }
});

// Saving

const upload = (path, body) => send(`${place.dataset.upload}?path=${encodeURIComponent(place.dataset.folder + path)}`, body, text.unreachable);

async function save() {
  part("problem").replaceChildren();
  hold(true); // what is changed from now on would be in no version
  const number = [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    const added = [...labels.images.values()].filter((one) => one.blob);
    for (const one of added) await upload(one.path, one.blob);
    const body = new Blob([JSON.stringify(labels.coco(entries))], {type: "application/json"});
    if (body.size > Number(place.dataset.limit)) throw new Error(fill(text.labels_too_large, {limit: `${place.dataset.limit / 2 ** 20} MiB`}));
    const {uri} = await upload(`labels-${number}.json`, body);
    const {onward} = await send(`${url}/versions`, new URLSearchParams({uri, digest}), text.unreachable);
    const saved = new Set(added.map((one) => one.path));
    await forget(drafts.filter((one) => saved.has(one.path)).map((one) => one.key)).catch(() => {});
    labels = null; // nothing is lost by leaving
    location.assign(onward);
  } catch (error) { hold(false); fail(error); }
}

function hold(on) {
  saving = part("work").inert = on;
  told();
}
part("save").addEventListener("click", save);
addEventListener("beforeunload", (event) => { if (labels?.changes > 0) event.preventDefault(); });
load().catch((error) => part("loading").replaceChildren(problem(error)));
