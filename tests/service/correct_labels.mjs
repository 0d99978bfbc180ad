// Corrects labels as the studio's page does, and prints the COCO file that it would upload. Run by test_studio_labels.py.

import {readFileSync} from "node:fs";
import {entriesOf, Labels, read} from "../../services/gateway/studio/static/labelling.js";

const {records, annotations, detection, changes} = JSON.parse(readFileSync(0, "utf8"));
const {head, images} = await read({body: ReadableStream.from([new TextEncoder().encode(records)])});
const labels = new Labels(head, images, detection), entries = entriesOf(JSON.parse(annotations), labels);
for (const {image, name, box, from, add} of changes) {
  const one = labels.images.get(image);
  if (from) labels.rename(from, name);
  else if (add) labels.add({...add, category: labels.named(name)}, entries);
  else if (box) labels.box(one, [...one.boxes, {...box, category: labels.named(name)}]);
  else labels.label(one, name);
}
console.log(JSON.stringify(labels.coco(entries)));
