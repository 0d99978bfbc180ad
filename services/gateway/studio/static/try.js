// Try it: images are dropped, pasted, chosen or taken; what the model sees is drawn on them.

import {forget, keep, kept} from "./drafts.js";
import {dragged} from "./gather.js";
import {lines} from "./lines.js";
import {ask, fill, make, problem, send} from "./studio.js";

const MOST = 20, READ = 200, COLOURS = ["#00a58e", "#e0662f", "#3f7fe0", "#c23b85", "#8a63d2", "#b08900", "#2f9e44", "#d6336c"];
const place = document.getElementById("try");
if (place) start();

function start() {
  const text = JSON.parse(place.dataset.text), suggested = JSON.parse(place.dataset.thresholds);
  const list = document.getElementById("tried"), slider = document.getElementById("threshold");
  const shown = document.getElementById("threshold-shown"), drop = document.getElementById("drop");
  const tried = [];
  const values = Object.values(suggested);
  if (place.dataset.detector && values.length) slider.value = values.reduce((a, b) => a + b) / values.length;

  const show = () => {
    shown.value = `${Math.round(slider.value * 100)} %`;
    tried.forEach((one) => one.draw(Number(slider.value)));
  };
  slider.addEventListener("input", show);
  show();

  async function take(files) {
    const images = [...files].filter((file) => file.type.startsWith("image/") || /\.(jpe?g|png|bmp|gif|tiff?|webp)$/i.test(file.name));
    drop.querySelector(".problem")?.remove();
    if (!images.length) drop.append(problem(new Error(text.no_images)));
    if (images.length > MOST) document.getElementById("said").textContent = text.too_many;
    for (const file of images.slice(0, MOST)) await look(file);
  }

  /** Shows an image with the model's answer, which is asked for if it is not there. */
  async function look(file, known = null) {
    const canvas = make("canvas", {width: 640, height: 400}), side = make("div", {className: "side"}, make("p", {}, text.working));
    const item = make("li", {className: "card"}, canvas, side);
    list.prepend(item);
    try {
      const bitmap = createImageBitmap(file).catch(() => null); // a browser may not know the format; the model may
      const answer = known ?? await send(`${place.dataset.url}/analyze`, file, text.unreachable);
      const one = view(file, await bitmap, answer, canvas, side, item);
      tried.push(one);
      one.draw(Number(slider.value));
    } catch (error) {
      side.replaceChildren(make("p", {className: "quiet"}, file.name), problem(error), remover(item));
    }
  }

  /** Shows the images that the predictor kept because the model was unsure of them. */
  async function unsure(button) {
    button.disabled = true;
    document.getElementById("unsure-problem").replaceChildren();
    try {
      let count = 0;
      for await (const line of lines(await ask(`${place.dataset.url}/suggestions`, text.unreachable))) {
        const bytes = Uint8Array.from(atob(line.image), (letter) => letter.charCodeAt(0));
        await look(new File([bytes], line.name, {type: line.type}), line.answer);
        count += 1;
      }
      document.getElementById("said").textContent = fill(text.unsure, {count});
    } catch (error) { document.getElementById("unsure-problem").append(problem(error)); }
    button.disabled = false;
  }

  const remover = (item) => {
    const button = make("button", {type: "button", className: "plain", textContent: text.remove});
    button.addEventListener("click", () => item.remove());
    return button;
  };

  function view(file, bitmap, answer, canvas, side, item) {
    let overlay = null, put = false;
    const names = [...new Set(answer.results.map((one) => one.name))];
    const colour = (name) => COLOURS[names.indexOf(name) % COLOURS.length];

    async function explain(name, button) {
      button.disabled = true;
      try {
        const found = await send(`${place.dataset.url}/explain?tag=${encodeURIComponent(name)}`, file, text.unreachable);
        const bytes = Uint8Array.from(atob(found.overlay), (letter) => letter.charCodeAt(0));
        overlay = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
        draw(Number(slider.value));
      } catch (error) { side.append(problem(error)); }
      button.disabled = false;
    }

    function picture(results) {
      const width = answer.width || bitmap?.width || 640, height = answer.height || bitmap?.height || 400;
      const scale = Math.min(1, 1400 / Math.max(width, height));
      canvas.width = width * scale;
      canvas.height = height * scale;
      canvas.ariaLabel = `${file.name}: ${results.map((one) => `${one.name} ${Math.round(one.confidence * 100)} %`).join(", ")}`;
      canvas.role = "img";
      const pen = canvas.getContext("2d");
      if (overlay ?? bitmap) pen.drawImage(overlay ?? bitmap, 0, 0, canvas.width, canvas.height);
      const unit = Math.max(12, canvas.width / 45);
      pen.font = `600 ${unit}px system-ui, sans-serif`;
      pen.lineWidth = Math.max(2, unit / 6);
      for (const one of results.filter((found) => found.box)) {
        const [x, y, w, h] = one.box.map((side) => side * scale), label = `${one.name} ${Math.round(one.confidence * 100)} %`;
        pen.strokeStyle = pen.fillStyle = colour(one.name);
        pen.strokeRect(x, y, w, h);
        const wide = pen.measureText(label).width + unit * .6, top = Math.max(0, y - unit * 1.4);
        pen.fillRect(x, top, wide, unit * 1.4);
        pen.fillStyle = "#fff";
        pen.fillText(label, x + unit * .3, top + unit);
      }
    }

    function bar(one) {
      const row = make("li", {}, make("span", {}, one.name));
      const frame = document.createElementNS("http://www.w3.org/2000/svg", "svg"), mark = document.createElementNS(frame.namespaceURI, "rect");
      for (const [name, value] of [["width", `${one.confidence * 100}%`], ["height", "14"], ["rx", "3"]]) mark.setAttribute(name, value);
      frame.setAttribute("height", "14");
      frame.ariaHidden = "true";
      frame.append(mark);
      row.append(frame, make("span", {className: "number"}, `${(one.confidence * 100).toFixed(1)} %`));
      return row;
    }

    /** Asks what is right, and puts the image aside for the dataset. Boxes are corrected where they are saved. */
    function feedback(results, top) {
      const open = make("button", {type: "button", textContent: text.wrong});
      open.addEventListener("click", () => {
        const submit = make("button", {className: "main", textContent: text.put_aside});
        const right = make("input", {required: true, maxLength: 200, spellcheck: false, value: ""});
        right.setAttribute("list", "right");
        const form = make("form", {}, ...(place.dataset.detector ? [] : [make("label", {}, text.right, right)]), submit);
        form.addEventListener("submit", async (event) => {
          event.preventDefault();
          const boxes = results.filter((one) => one.box).map(({name, box: [x, y, w, h]}) => ({name, x, y, w, h}));
          put = await aside(file, answer, boxes, right.value.trim(), text, side);
          if (put) form.remove();
        });
        open.replaceWith(form);
        (place.dataset.detector ? submit : right).focus();
      });
      return open;
    }

    function draw(threshold) {
      const results = answer.results.filter((one) => one.confidence >= threshold);
      picture(results);
      const top = results[0] ?? answer.results[0], rest = answer.results.length - results.length;
      const children = [make("p", {className: "small quiet"}, file.name)];
      children.push(results.length ? make("ul", {className: "bars"}, ...results.slice(0, 12).map(bar)) : make("p", {}, text.nothing));
      if (rest) children.push(make("p", {className: "small quiet"}, fill(text.more, {count: rest})));
      const line = make("p", {className: "actions"});
      if (overlay) {
        const hide = make("button", {type: "button", textContent: text.plain});
        hide.addEventListener("click", () => { overlay = null; draw(Number(slider.value)); });
        line.append(hide);
      } else if (top) {
        const why = make("button", {type: "button", textContent: fill(text.explain, {name: top.name})});
        why.addEventListener("click", () => explain(top.name, why));
        line.append(why);
      }
      if (place.dataset.dataset && !put) line.append(feedback(results, top));
      line.append(remover(item));
      side.replaceChildren(...children, line);
    }
    return {draw};
  }

  const choose = document.getElementById("choose");
  choose.addEventListener("change", () => { take([...choose.files]); choose.value = ""; });
  if (choose.files.length) choose.dispatchEvent(new Event("change")); // chosen before this script was there
  addEventListener("paste", ({clipboardData}) => { if (clipboardData?.files.length) take(clipboardData.files); });
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const {files} = await dragged(event.dataTransfer).catch(() => ({files: []})); // of a zip that is none
    take(await Promise.all(files.slice(0, READ).map(async ({path, read}) => {
      const body = await read();
      return new File([body], path.split("/").at(-1), {type: body.type});
    })));
  });
  camera(text, take);
  if (!place.dataset.dataset) return;
  const names = JSON.parse(place.dataset.categories).map((name) => make("option", {value: name}));
  place.append(make("datalist", {id: "right"}, ...names));
  const button = document.getElementById("unsure");
  button.addEventListener("click", () => unsure(button));
  document.getElementById("discard").addEventListener("click", async () => {
    await forget((await kept(place.dataset.dataset)).map((one) => one.key));
    await tell(text);
  });
  tell(text);
}

/** Keeps the image with its right label in this browser. Resolves to whether that worked. */
async function aside(file, answer, boxes, category, text, side) {
  const extension = /\.\w{1,5}$/.exec(file.name)?.[0] ?? ".jpg";
  const path = `feedback-${crypto.getRandomValues(new Uint32Array(2)).join("-")}${extension}`;
  try {
    const blob = new Blob([await file.arrayBuffer()], {type: file.type});
    await keep({dataset: place.dataset.dataset, name: file.name, path, blob, width: answer.width, height: answer.height, boxes, category});
  } catch {
    side.append(problem(new Error(text.not_aside)));
    return false;
  }
  await tell(text);
  return true;
}

/** Says how many images are put aside for the model's dataset. */
async function tell(text) {
  const found = await kept(place.dataset.dataset).catch(() => []), line = document.getElementById("kept");
  line.hidden = !found.length;
  line.firstElementChild.textContent = fill(text.aside, {count: found.length});
}

function camera(text, take) {
  const [button, video, line, shoot, stop] = ["camera", "view", "shoot-line", "shoot", "stop"].map((id) => document.getElementById(id));
  if (!navigator.mediaDevices?.getUserMedia) return;
  button.hidden = false;
  const show = (on) => { video.hidden = line.hidden = !on; button.hidden = on; };
  const off = () => { video.srcObject?.getTracks().forEach((track) => track.stop()); video.srcObject = null; show(false); };
  button.addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
      await video.play();
      show(true);
    } catch { document.getElementById("drop").append(problem(new Error(text.camera_refused))); }
  });
  stop.addEventListener("click", off);
  shoot.addEventListener("click", () => {
    const still = make("canvas", {width: video.videoWidth, height: video.videoHeight});
    still.getContext("2d").drawImage(video, 0, 0);
    still.toBlob((blob) => take([new File([blob], "camera.jpg", {type: "image/jpeg"})]), "image/jpeg", .92);
  });
}
