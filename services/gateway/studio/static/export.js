// Downloads a model: shows how far the worker is that makes the archive, then lets the browser fetch it.

import {csrf, problem} from "./studio.js";

const form = document.getElementById("export"), text = JSON.parse(form.dataset.text);
const [shown, words] = form.querySelector("[role=status]").children, button = form.querySelector("button");

/** Follows the work until the archive is there. Rejects with the message of the service. */
async function made() {
  const body = new URLSearchParams(new FormData(form));
  const response = await fetch(form.dataset.progress, {method: "POST", body, headers: {"x-csrf-token": csrf, "hx-request": "true"}});
  if (response.headers.has("hx-redirect")) location.assign(response.headers.get("hx-redirect"));
  if (!response.ok) throw new Error(new DOMParser().parseFromString(await response.text(), "text/html").body.textContent.trim());
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((one) => JSON.parse(one))) {
      if (line.made) return;
      shown.value = line.fraction;
      words.textContent = line.words;
    }
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
    form.append(problem(error instanceof TypeError ? new Error(text.unreachable) : error));
  }
  button.disabled = false;
});
