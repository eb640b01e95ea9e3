// What happens on the page: an image comes in, the answers of four routes go out.

import * as api from "./api.js";
import { Pad } from "./draw.js";
import * as view from "./view.js";

const find = (id) => document.getElementById(id);
const state = { image: null, card: null, requests: null, retries: new Map() };

// Fill a part of a section with what `load` gives, or with its error and a way to try again. False where it failed.
async function fill(id, load, show, { target = find(id).querySelector(".body"), retry } = {}) {
  const section = find(id);
  section.hidden = false;
  section.ariaBusy = "true";
  state.retries.delete(id);
  let filled = false;
  try {
    target.replaceChildren(...[show(await load())].flat());
    filled = true;
  } catch (error) {
    if (error.name === "AbortError") return false; // a newer request fills the section
    retry ??= () => fill(id, load, show, { target });
    state.retries.set(id, retry);
    if (error.status === 401) askForKey(error);
    target.replaceChildren(error.status === 401 ? view.el("p", { class: "note" }, "A key is needed.") : view.problem(error, retry));
  }
  section.ariaBusy = "false";
  return filled;
}

function hide(...ids) {
  for (const id of ids) {
    find(id).hidden = true;
    find(id).ariaBusy = "false";
    state.retries.delete(id);
  }
}

function askForKey(error) {
  if (!find("key").hidden) return;
  find("key-problem").textContent = api.hasKey() ? `${error.message}.` : "";
  find("key").hidden = false;
  find("key-value").focus();
}

async function useKey(event) {
  event.preventDefault();
  api.saveKey(find("key-value").value);
  find("key").hidden = true;
  find("key-value").value = "";
  find("file").focus();
  await Promise.all([...state.retries].map(([, retry]) => retry()));
}

async function readModel() {
  await fill("model", api.model, (card) => {
    state.card = card;
    document.title = `${card.name} · Gapgate`;
    find("model-name").textContent = `${card.name} · version ${card.version}`;
    find("heat-class").replaceChildren(
      view.el("option", { value: "" }, "the predicted class"),
      ...card.classes.map((name) => view.el("option", { value: name }, name)),
    );
    if (pad.empty) {
      find("invert").checked = card.input.mode === "rgb";
      pad.inverted = find("invert").checked;
    }
    return view.modelCard(card);
  });
}

async function answer(image) {
  state.requests?.abort();
  state.requests = new AbortController();
  state.image = image;
  const { signal } = state.requests;
  for (const id of ["heat", "similar", "receipt"]) find(id).ariaBusy = "true";
  const started = performance.now();
  let found;
  const answered = await fill(
    "answer",
    () => api.predict(image, signal),
    (prediction) => {
      found = prediction;
      find("status").textContent = `${prediction.class}, ${view.percent(prediction.confidence)}`;
      return view.prediction(prediction, performance.now() - started);
    },
    { retry: () => answer(image) },
  );
  if (signal.aborted) return;
  if (!answered) {
    hide("heat", "similar", "receipt");
    return;
  }
  find("heat-class").value = "";
  explain(image, signal);
  if (state.card?.similar === 0) hide("similar");
  else fill("similar", () => api.similar(image, signal), view.neighbours);
  fill("receipt", () => api.receipt(found.receipt, signal), (content) => view.receipt(found.receipt, content));
}

function explain(image, signal) {
  hideFeatureMaps();
  return fill("heat", () => api.explain(image, signal, { className: find("heat-class").value }), view.heatMap);
}

function hideFeatureMaps() {
  find("maps").replaceChildren();
  find("show-maps").textContent = "Show feature maps";
  find("show-maps").ariaExpanded = "false";
}

async function showFeatureMaps() {
  if (find("show-maps").ariaExpanded === "true") return hideFeatureMaps();
  const { signal } = state.requests;
  const load = () => api.explain(state.image, signal, { className: find("heat-class").value, featureMaps: true });
  const shown = await fill("heat", load, (found) => view.featureMaps(found.feature_maps ?? []), {
    target: find("maps"),
  });
  if (!shown) return;
  find("show-maps").textContent = "Hide feature maps";
  find("show-maps").ariaExpanded = "true";
}

async function takeExample() {
  const file = await fetch("static/example.png");
  takeFile(new File([await file.blob()], "example.png", { type: "image/png" }));
}

// What this browser can show and the server does not take (AVIF, HEIC, TIFF) is turned into PNG; else the file itself,
// and the server says what to do. The browser makes it upright and sRGB, as the server does with other files.
async function accepted(file, limit) {
  const takes = state.card?.input.content_types;
  const kind = file.type || `image/${file.name.split(".").pop().toLowerCase()}`; // not every system knows HEIC
  if (!takes || takes.includes(kind) || !/^image\/(avif|hei[cf]|tiff?)$/.test(kind)) return file;
  try {
    const bitmap = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    const encoded = (...how) => new Promise((resolve) => canvas.toBlob(resolve, ...how));
    let blob = await encoded("image/png");
    if (blob.size > limit) blob = await encoded("image/jpeg", 0.95);
    return new File([blob], `${file.name}.${blob.type.slice(6)}`, { type: blob.type });
  } catch {
    return file;
  }
}

async function takeFile(file) {
  if (!file) return;
  find("source-file").checked = true;
  switchSource();
  const picture = find("preview");
  URL.revokeObjectURL(picture.src);
  picture.hidden = false;
  picture.src = URL.createObjectURL(file);
  find("drop-text").hidden = true;
  const name = file.name || "Pasted image";
  find("file-note").textContent = name;
  picture.onload = () => {
    find("file-note").textContent = `${name} · ${picture.naturalWidth} × ${picture.naturalHeight} px`;
    picture.classList.toggle("pixels", picture.naturalWidth < 96);
  };
  // The server may still read what a browser cannot show, such as TIFF.
  picture.onerror = () => {
    picture.hidden = true;
    find("drop-text").hidden = false;
    find("drop-text").textContent = "This browser has no preview of the file";
  };
  const limit = state.card?.input.max_body_bytes ?? Infinity;
  const sent = await accepted(file, limit);
  if (sent.size > limit) refuse(sent, limit);
  else answer(sent);
}

// Servers close the connection on a body that is too large, and browsers then hide the answer.
function refuse(file, limit) {
  state.requests?.abort();
  state.image = file;
  const message = `The file is larger than the ${view.bytes(limit)} that the server takes.`;
  const problem = view.problem({ message, code: "body_too_large" }, () => find("file").click());
  problem.querySelector("button").textContent = "Choose another file";
  find("answer").querySelector(".body").replaceChildren(problem);
  hide("heat", "similar", "receipt");
}

async function takeDrawing() {
  if (!pad.empty) answer(await pad.toBlob());
}

function switchSource() {
  const drawing = find("source-draw").checked;
  find("panel-draw").hidden = !drawing;
  find("panel-file").hidden = drawing;
}

function acceptDrops() {
  const root = document.documentElement;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) root.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("over");
    takeFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => takeFile(event.clipboardData.files[0]));
}

const pad = new Pad(find("canvas"), find("cursor"), find("pen"), takeDrawing);
acceptDrops();
find("key-form").addEventListener("submit", useKey);
find("file").addEventListener("change", (event) => {
  takeFile(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const radio of document.getElementsByName("source")) radio.addEventListener("change", switchSource);
find("invert").addEventListener("change", (event) => (pad.inverted = event.target.checked));
find("undo").addEventListener("click", () => pad.undo());
find("clear").addEventListener("click", () => pad.clear());
find("heat-class").addEventListener("change", () => explain(state.image, state.requests.signal));
find("show-maps").addEventListener("click", showFeatureMaps);
find("example").addEventListener("click", takeExample);
switchSource();
readModel();
