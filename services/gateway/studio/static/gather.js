// The files of what was dropped or chosen: a folder, several, a zip, or single files; each with its path and how to read it.

import {entries} from "./zip.js";

const HIDDEN = /(^|\/)(\.|__MACOSX\/|@eaDir\/|Thumbs\.db$|desktop\.ini$)/i, ZIP = /\.zip$/i;

const plain = (file, path) => ({path, size: file.size, read: async () => file});

/** What a person dropped or chose: a name for it, and its files. Rejects with a zip that cannot be read. */
async function drop(name, files) {
  const seen = new Map((await files).filter((file) => !HIDDEN.test(file.path)).map((file) => [file.path, file]));
  return {name, files: [...seen.values()]};
}

/** The files in a drag: folders with all that they hold. Call it before anything is awaited, when a drag has ended it is empty. */
export function dragged(transfer) {
  const found = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (found.length === 1 && found[0].isFile && ZIP.test(found[0].name)) return zipped(transfer.files[0]);
  const name = found.length === 1 ? found[0].name : "";
  return drop(name, Promise.all(found.map((entry) => walk(entry))).then((parts) => parts.flat()));
}

/** The files of an input for folders. */
export function chosen(files) {
  const listed = [...files].map((file) => plain(file, file.webkitRelativePath || file.name));
  return drop(listed[0]?.path.split("/")[0] ?? "", listed);
}

/** The files in a zip. */
export const zipped = (file) => drop(file.name, entries(file));

async function walk(entry, path = "") {
  if (entry.isFile) return [plain(await new Promise((done, failed) => entry.file(done, failed)), path + entry.name)];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const one of some) found.push(...await walk(one, `${path}${entry.name}/`));
  }
}
