// Downloads a model: shows how far the worker is that makes the archive, then lets the browser fetch it.

import {lines} from "./lines.js";
import {ask, problem} from "./studio.js";

const form = document.getElementById("export"), text = JSON.parse(form.dataset.text);
const [shown, words] = form.querySelector("[role=status]").children, button = form.querySelector("button");

/** Follows the work until the archive is there. Rejects with the message of the service. */
async function made() {
  const response = await ask(form.dataset.progress, text.unreachable, {method: "POST", body: new URLSearchParams(new FormData(form))});
  for await (const line of lines(response)) {
    if (line.made) return;
    shown.value = line.fraction;
    words.textContent = line.words;
  }
  throw new Error(text.broken_off);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.querySelector(".problem")?.remove();
  button.disabled = true;
  words.textContent = "";
  shown.value = 0;
  shown.parentElement.hidden = false;
  try {
    await made();
    shown.value = 1;
    words.textContent = text.downloading;
    form.submit(); // without this script again
  } catch (error) {
    shown.parentElement.hidden = true;
    form.append(problem(error instanceof TypeError ? new Error(text.broken_off) : error));
  }
  button.disabled = false;
});
