// What the page for labels does with them, without a browser. Run by test_labelling.py.

import assert from "node:assert/strict";
import test from "node:test";

import {at, drawn, entriesOf, Labels, moved, read} from "../../../../services/gateway/studio/static/labelling.js";
import {entries as filesOf} from "../../../../services/gateway/studio/static/zip.js";

const HEAD = {categories: [[1, "oak"], [2, "elm"], [7, "Oak"]]};
const image = (id, changes) => ({id, file: `${id}.jpg`, size: [100, 50], tag: "t", category: null, boxes: [], ...changes});
const classes = () => new Labels(HEAD, [image(1, {category: 1}), image(2, {category: 2}), image(3, {category: 7})], false);
const boxes = () => new Labels(HEAD, [image(5, {boxes: [[2, 10, 20, 30, 10, 1]]}), image(6)], true);
const entries = new Map([[1, {file_name: "a/1.jpg", width: 9}], [2, {file_name: "2.jpg", absolute_url: "s3://b/2.jpg"}], [3, {file_name: "3.jpg"}]]);
const frame = {width: 100, height: 50};

test("a label, a rename and a merge are undone in turn", () => {
  const labels = classes(), one = labels.images.get(1);
  labels.label(one, "elm");
  labels.rename("elm", "ash");
  labels.rename("Oak", "oak");
  assert.deepEqual([...labels.counts()], [["oak", 1], ["ash", 2]]);
  assert.equal(labels.changes, 3);
  assert.equal(labels.undo(), null);
  assert.equal(labels.undo(), null);
  assert.equal(labels.undo(), 1);
  assert.deepEqual([...labels.counts()], [["oak", 1], ["elm", 1], ["Oak", 1]]);
  assert.equal(labels.undo(), null);
  assert.equal(labels.changes, 0);
});

test("what changes nothing is no change", () => {
  const labels = classes();
  labels.label(labels.images.get(1), "oak");
  labels.rename("oak", "oak");
  labels.rename("oak", "");
  labels.rename("none", "oak");
  assert.equal(labels.changes, 0);
});

test("merged categories are one in the file, and all images are found as before", () => {
  const labels = classes();
  labels.rename("Oak", "oak");
  const content = labels.coco(entries);
  assert.deepEqual(content.categories, [{id: 1, name: "oak"}, {id: 2, name: "elm"}]);
  assert.deepEqual(content.annotations.map((one) => [one.id, one.image_id, one.category_id]), [[1, 1, 1], [2, 2, 2], [3, 3, 1]]);
  assert.deepEqual(JSON.parse(JSON.stringify(content.images[0])), {id: 1, file_name: "a/1.jpg", width: 100, height: 50});
  assert.equal(content.images[1].absolute_url, "s3://b/2.jpg");
});

test("undoing a merge leaves each image the category that it had", () => {
  const labels = classes();
  labels.rename("Oak", "oak");
  labels.undo();
  assert.deepEqual(labels.coco(entries).annotations.map((one) => one.category_id), [1, 2, 7]);
});

test("a new category is saved if it is used, not if it was only tried out", () => {
  const labels = classes();
  labels.label(labels.images.get(1), "ash");
  assert.deepEqual(labels.coco(entries).categories.at(-1), {id: 8, name: "ash"});
  labels.undo();
  assert.deepEqual(labels.coco(entries).categories.map((one) => one.name), ["oak", "elm", "Oak"]);
});

test("boxes keep their category and what is a crowd, and an image without boxes stays", () => {
  const labels = boxes(), one = labels.images.get(5);
  labels.box(one, [...one.boxes, {category: 1, x: 0, y: 0, w: 5, h: 5, crowd: 0}]);
  const content = labels.coco(new Map([[5, {file_name: "5.jpg"}], [6, {file_name: "6.jpg"}]]));
  assert.equal(content.images.length, 2);
  assert.deepEqual(content.annotations, [
    {id: 1, image_id: 5, category_id: 2, bbox: [10, 20, 30, 10], iscrowd: 1},
    {id: 2, image_id: 5, category_id: 1, bbox: [0, 0, 5, 5], iscrowd: 0},
  ]);
  assert.equal(labels.undo(), 5);
  assert.equal(one.boxes.length, 1);
});

test("an image that is added has an id of its own, also among images that the snapshot left out, and the path of its upload", () => {
  const labels = classes(), added = {file: "new.jpg", path: "feedback-1.jpg", width: 4, height: 3, category: 2, boxes: []};
  const whole = new Map([...entries, [9, {file_name: "undecodable.jpg"}], ["x", {file_name: "without a number.jpg"}]]);
  for (let repeat = 0; repeat < 2; repeat += 1) {
    labels.add(added, whole);
    const content = labels.coco(whole);
    assert.deepEqual(JSON.parse(JSON.stringify(content.images.at(-1))), {id: 10, file_name: "feedback-1.jpg", width: 4, height: 3});
    assert.equal(content.annotations.at(-1).image_id, 10);
    labels.undo();
    assert.equal(labels.images.size, 3);
  }
});

test("a file is refused whose images cannot be told apart", () => {
  const labels = classes(), listed = [1, 2, 3].map((id) => ({id}));
  assert.equal(entriesOf({images: listed}, labels).size, 3);
  assert.equal(entriesOf({images: [...listed, {id: 9}]}, labels).size, 4); // what validation left out is not in the snapshot
  assert.equal(entriesOf({images: [...listed, {id: 3}]}, labels), null);
  assert.equal(entriesOf({images: [{id: "1"}, {id: 2}, {id: 3}]}, labels), null);
});

test("lines are read wherever they are cut", async () => {
  const bytes = new TextEncoder().encode('{"count":2}\n{"id":1,"file":"é"}\n{"id":2}\n');
  for (let size = 1; size < 12; size += 1) {
    const parts = Array.from({length: Math.ceil(bytes.length / size)}, (_, at) => bytes.slice(at * size, (at + 1) * size));
    const {head, images} = await read({body: ReadableStream.from(parts)});
    assert.deepEqual([head, images], [{count: 2}, [{id: 1, file: "é"}, {id: 2}]]);
  }
});

test("a box is drawn from any corner, ends at the edges, and is none if it is a click", () => {
  assert.deepEqual(drawn({x: 30, y: 40}, {x: 10, y: 20}, frame), {x: 10, y: 20, w: 20, h: 20});
  assert.deepEqual(drawn({x: 90, y: 40}, {x: 200, y: -5}, frame), {x: 90, y: 0, w: 10, h: 40});
  assert.equal(drawn({x: 5, y: 5}, {x: 5.5, y: 30}, frame), null);
});

test("a box that is moved keeps its size at the edges, and its corners turn over", () => {
  const box = {x: 10, y: 10, w: 20, h: 10, category: 3};
  assert.deepEqual(moved(box, "inside", -50, 500, frame), {x: 0, y: 40, w: 20, h: 10, category: 3});
  assert.deepEqual(moved(box, "se", 5, 6, frame), {x: 10, y: 10, w: 25, h: 16, category: 3});
  assert.deepEqual(moved(box, "nw", -5, -50, frame), {x: 5, y: 0, w: 25, h: 20, category: 3});
  assert.deepEqual(moved(box, "nw", 30, 0, frame), {x: 30, y: 10, w: 10, h: 10, category: 3});
  assert.deepEqual(moved(box, "ne", -20, 0, frame), box); // it would be nothing
});

test("a corner of the chosen box comes before the smallest box at the point", () => {
  const all = [{x: 0, y: 0, w: 100, h: 50}, {x: 40, y: 10, w: 10, h: 10}];
  assert.deepEqual(at(all, -1, {x: 45, y: 15}, 4), {index: 1, part: "inside"});
  assert.deepEqual(at(all, 1, {x: 51, y: 21}, 4), {index: 1, part: "se"});
  assert.deepEqual(at(all, 0, {x: 2, y: 2}, 4), {index: 0, part: "nw"});
  assert.equal(at([all[1]], -1, {x: 1, y: 1}, 4), null);
});

test("names in a zip are UTF-8, with the flag that says so or without", async () => {
  const entry = (name, flags) => {
    const bytes = Buffer.alloc(46);
    bytes.writeUInt32LE(0x02014b50, 0);
    bytes.writeUInt16LE(flags, 8);
    bytes.writeUInt16LE(name.length, 28);
    return Buffer.concat([bytes, name]);
  };
  const listed = [entry(Buffer.from("Äpfel/1.jpg"), 0), entry(Buffer.from("Äpfel/2.jpg"), 0x800), entry(Buffer.from("\xc4pfel/3.jpg", "latin1"), 0)];
  const directory = Buffer.concat(listed), end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt32LE(directory.length, 12);
  const found = await filesOf(new Blob([directory, end]));
  assert.deepEqual(found.map((one) => one.path), ["Äpfel/1.jpg", "Äpfel/2.jpg", "Äpfel/3.jpg"]);
});
