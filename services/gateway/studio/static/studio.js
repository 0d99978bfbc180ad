// What all pages share: live progress, sliders that show their value, and buttons that copy.

export const csrf = document.querySelector('meta[name="csrf"]').content;

/** A text with its values filled in. */
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

/** An element with properties and children; text is never read as HTML. */
export function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Asks the studio. Rejects with the message of the service, or with `unreachable`; goes to another page if it says so. */
export async function ask(url, unreachable, options = {}) {
  let response;
  try {
    response = await fetch(url, {...options, headers: {"x-csrf-token": csrf, "hx-request": "true"}});
  } catch {
    throw new Error(unreachable);
  }
  if (response.ok) return response;
  const onward = response.headers.get("hx-redirect");
  if (onward) location.assign(onward);
  const problem = new DOMParser().parseFromString(await response.text(), "text/html");
  throw Object.assign(new Error(problem.body.textContent.trim()), {
    status: response.status, after: Number(response.headers.get("retry-after")),
  });
}

/** Sends something to the studio, as `ask`. Resolves to its answer; `onward` is the page that comes next. */
export async function send(url, body, unreachable) {
  const response = await ask(url, unreachable, {method: "POST", body}), onward = response.headers.get("hx-redirect");
  if (onward) return {onward};
  return response.status === 204 ? {} : response.json();
}

/** An error as the pages show it. */
export const problem = (error) => make("div", {className: "problem", role: "alert"}, make("p", {}, error.message));

function follow(place) {
  const events = new EventSource(place.dataset.live);
  events.addEventListener("progress", (event) => {
    const kept = place.querySelector(".scroll")?.scrollLeft ?? 0;
    place.innerHTML = event.data; // made by our own templates, which escape everything
    const table = place.querySelector(".scroll");
    if (table) table.scrollLeft = kept;
  });
  events.addEventListener("ended", () => { events.close(); location.reload(); });
  events.onerror = () => { document.getElementById("said").textContent = place.dataset.lost; };
  addEventListener("pagehide", () => events.close());
}
document.querySelectorAll("[data-live]").forEach(follow);

for (const input of document.querySelectorAll("input[data-output]")) {
  const output = input.closest(".slider").querySelector("output");
  const show = () => { output.value = `${input.value} ${output.dataset.unit}`; };
  input.addEventListener("input", show);
  show();
}

for (const choice of document.querySelectorAll("select[data-submit]")) {
  choice.form.querySelector("button").hidden = true;
  choice.addEventListener("change", () => choice.form.requestSubmit());
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) button.hidden = true; // browsers have it over TLS and on this machine only
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    document.getElementById("said").textContent = button.dataset.done;
    button.textContent = button.dataset.done;
  });
}
