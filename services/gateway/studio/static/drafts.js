// Images that a person found wrongly predicted, kept in this browser until they are saved into a dataset.

const NAME = "sightline-drafts", STORE = "images";

function open() {
  return new Promise((done, failed) => {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE, {autoIncrement: true});
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
  });
}

async function within(mode, work) {
  const database = await open();
  try {
    const changed = database.transaction(STORE, mode), answer = work(changed.objectStore(STORE));
    await new Promise((done, failed) => { changed.oncomplete = done; changed.onerror = changed.onabort = () => failed(changed.error); });
    return answer;
  } finally { database.close(); }
}

/** Keeps an image for the dataset. */
export const keep = (draft) => within("readwrite", (store) => { store.add(draft); });

/** The images kept for the dataset, each with its key. */
export async function kept(dataset) {
  const found = [];
  await within("readonly", (store) => {
    store.openCursor().onsuccess = (event) => {
      const cursor = event.target.result;
      if (!cursor) return;
      if (cursor.value.dataset === dataset) found.push({...cursor.value, key: cursor.key});
      cursor.continue();
    };
  });
  return found;
}

/** Forgets images by their keys. */
export const forget = (keys) => within("readwrite", (store) => { for (const key of keys) store.delete(key); });
