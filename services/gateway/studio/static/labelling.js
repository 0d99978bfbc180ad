// Labels that are being corrected: what was changed, how it is undone, and what is saved. Knows nothing of pages.

import {lines} from "./lines.js";

export const LEAST = 1; // pixels of a side of a box

/** Reads what the studio sends of a dataset. Resolves to the head and the images. */
export async function read(response) {
  const found = [];
  for await (const line of lines(response)) found.push(line);
  return {head: found[0], images: found.slice(1)};
}

export class Labels {
  #undo = [];

  constructor(head, images, detection) {
    this.detection = detection;
    this.categories = new Map(head.categories); // name by id
    this.known = new Set(this.categories.keys());
    this.images = new Map(images.map((one) => [one.id, {
      id: one.id, file: one.file, width: one.size[0], height: one.size[1], tag: one.tag, category: one.category,
      boxes: one.boxes.map(([category, x, y, w, h, crowd]) => ({category, x, y, w, h, crowd})),
    }]));
  }

  get changes() { return this.#undo.length; }

  /** The names in use, each once. */
  get names() { return [...new Set(this.categories.values())]; }

  /** The first category of the name; made if there is none. */
  named(name) {
    for (const [id, known] of this.categories) if (known === name) return id;
    const id = Math.max(0, ...this.categories.keys()) + 1;
    this.categories.set(id, name);
    return id;
  }

  label(image, name) {
    const before = image.category;
    if (this.categories.get(before) === name) return;
    image.category = this.named(name);
    this.#undo.push(() => { image.category = before; return image.id; });
  }

  box(image, boxes) {
    const before = image.boxes;
    image.boxes = boxes;
    this.#undo.push(() => { image.boxes = before; return image.id; });
  }

  /** Gives all categories of a name another one; to a name that there is, they are merged with it. */
  rename(from, to) {
    const ids = [...this.categories].filter(([, name]) => name === from).map(([id]) => id);
    if (!to || to === from || !ids.length) return;
    for (const id of ids) this.categories.set(id, to);
    this.#undo.push(() => { for (const id of ids) this.categories.set(id, from); return null; });
  }

  /** Adds an image that the dataset does not have. Its id is above those of all `entries` (see `coco`), of which the dataset may have left some out. */
  add(image, entries) {
    const id = [...entries.keys(), ...this.images.keys()].reduce((most, one) => Math.max(most, Number(one) || 0), 0) + 1;
    this.images.set(id, {...image, id});
    this.#undo.push(() => { this.images.delete(id); return null; });
    return this.images.get(id);
  }

  /** Takes the last change back. Returns the id of the image that it was about, or null. */
  undo() { return this.#undo.pop()?.() ?? null; }

  /** How many images, or boxes, are of each name. */
  counts() {
    const found = new Map(this.names.map((name) => [name, 0]));
    for (const image of this.images.values()) {
      const used = this.detection ? image.boxes.map((box) => box.category) : image.category === null ? [] : [image.category];
      for (const id of used) found.set(this.categories.get(id), (found.get(this.categories.get(id)) ?? 0) + 1);
    }
    return found;
  }

  /** The COCO file of what there is now. `entries` are the images of the file that it replaces, by id: they say where. */
  coco(entries) {
    const first = new Map([...this.categories].reverse().map(([id, name]) => [name, id]));
    const merged = (id) => first.get(this.categories.get(id)), annotations = [];
    const images = [...this.images.values()].map((one) => {
      const {file_name, coco_url, absolute_url} = one.path ? {file_name: one.path} : entries.get(one.id);
      return {id: one.id, file_name, coco_url, absolute_url, width: one.width, height: one.height};
    });
    for (const one of this.images.values()) {
      const marks = this.detection
        ? one.boxes.map((box) => ({category_id: merged(box.category), bbox: [box.x, box.y, box.w, box.h], iscrowd: box.crowd || 0}))
        : one.category === null ? [] : [{category_id: merged(one.category)}];
      for (const mark of marks) annotations.push({id: annotations.length + 1, image_id: one.id, ...mark});
    }
    const used = new Set(annotations.map((one) => one.category_id)); // a name that was only tried out is not saved
    const categories = [...this.categories].filter(([id]) => merged(id) === id && (this.known.has(id) || used.has(id))).map(([id, name]) => ({id, name}));
    return {images, annotations, categories};
  }
}

/** The images of a COCO file by id; null if it is not certain which image is which. */
export function entriesOf(content, labels) {
  const found = new Map(content.images.map((one) => [one.id, one]));
  const known = [...labels.images.keys()].every((id) => found.has(id));
  return known && found.size === content.images.length ? found : null;
}

const between = (value, low, high) => Math.min(high, Math.max(low, value));

/** The box between two points, within the image; null if it is too small to be meant. */
export function drawn(from, to, image) {
  const [left, right] = [from.x, to.x].map((x) => between(x, 0, image.width)).sort((a, b) => a - b);
  const [top, bottom] = [from.y, to.y].map((y) => between(y, 0, image.height)).sort((a, b) => a - b);
  return right - left < LEAST || bottom - top < LEAST ? null : {x: left, y: top, w: right - left, h: bottom - top};
}

/** The box after its inside, or one of its corners (`nw`, `ne`, `sw`, `se`), was moved; it stays within the image. */
export function moved(box, part, dx, dy, image) {
  if (part === "inside") {
    return {...box, x: between(box.x + dx, 0, Math.max(0, image.width - box.w)), y: between(box.y + dy, 0, Math.max(0, image.height - box.h))};
  }
  const from = {x: part.includes("w") ? box.x + box.w : box.x, y: part.includes("n") ? box.y + box.h : box.y};
  const to = {x: (part.includes("w") ? box.x : box.x + box.w) + dx, y: (part.includes("n") ? box.y : box.y + box.h) + dy};
  return {...box, ...(drawn(from, to, image) ?? {})};
}

/** What is at a point: a corner of the selected box, or else the smallest box around it; null if there is none. */
export function at(boxes, selected, point, reach) {
  const corners = (box) => [["nw", box.x, box.y], ["ne", box.x + box.w, box.y], ["sw", box.x, box.y + box.h], ["se", box.x + box.w, box.y + box.h]];
  if (boxes[selected]) {
    for (const [part, x, y] of corners(boxes[selected])) if (Math.hypot(point.x - x, point.y - y) <= reach) return {index: selected, part};
  }
  let best = null;
  boxes.forEach((box, index) => {
    const inside = point.x >= box.x && point.x <= box.x + box.w && point.y >= box.y && point.y <= box.y + box.h;
    if (inside && (best === null || box.w * box.h < boxes[best].w * boxes[best].h)) best = index;
  });
  return best === null ? null : {index: best, part: "inside"};
}
