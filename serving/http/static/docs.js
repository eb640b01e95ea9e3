// What a script adds to the documentation, which is whole without: buttons that copy, and forms that send requests.

import { keyHeader, saveKey } from "./api.js";

const LONGEST = 240; // characters of a text in an answer that are shown

for (const figure of document.querySelectorAll(".docs figure")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(figure.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  // Browsers give the clipboard to pages over HTTPS and on this machine alone.
  if (navigator.clipboard) figure.querySelector("figcaption").append(button);
}

for (const box of document.querySelectorAll(".try")) {
  const form = box.querySelector("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form, box.querySelector(".answer"));
  });
  box.hidden = false;
}

const keyForm = document.querySelector("#key-form");
keyForm?.addEventListener("submit", (event) => {
  event.preventDefault();
  saveKey(keyForm.elements.key.value);
  keyForm.reset();
  keyForm.querySelector("[role=status]").textContent = "The forms below send this key.";
});
if (keyForm) keyForm.hidden = false;

async function send(form, answer) {
  const [button, status] = [form.querySelector("button"), form.querySelector("[role=status]")];
  button.disabled = true;
  status.textContent = "Waiting for the answer.";
  answer.replaceChildren();
  const startedAt = performance.now();
  try {
    const { address, options } = await request(form);
    const response = await fetch(address, options);
    const shown = await content(response);
    const duration = Math.round(performance.now() - startedAt);
    status.textContent = `${response.status} ${response.statusText}, ${duration.toLocaleString("en")} ms`;
    answer.append(shown);
  } catch {
    status.textContent = "The server does not answer.";
  }
  button.disabled = false;
}

async function request(form) {
  let address = form.dataset.path.slice(1); // beside this page, wherever a proxy has put it
  const query = new URLSearchParams();
  const options = { method: form.dataset.method, headers: keyHeader() };
  for (const { name, value, dataset } of form.querySelectorAll("[data-in]")) {
    if (dataset.in === "path") address = address.replace(`{${name}}`, encodeURIComponent(value));
    else if (dataset.in === "header") options.headers[name] = value;
    else if (value) query.set(name, value);
  }
  const field = form.querySelector("[data-body]");
  if (field) {
    const files = field.files.length ? [...field.files] : [await example()];
    if (field.dataset.body === "form") {
      options.body = new FormData();
      for (const file of files) options.body.append(field.name, file, file.name);
    } else {
      const data = await Promise.all(files.map(base64));
      const input = { name: field.name, datatype: "BYTES", shape: [data.length], data };
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify({ inputs: [input] });
    }
  }
  return { address: query.size ? `${address}?${query}` : address, options };
}

async function example() {
  const response = await fetch("static/example.png");
  return new File([await response.blob()], "example.png", { type: "image/png" });
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

async function content(response) {
  const type = response.headers.get("Content-Type") ?? "";
  if (type.startsWith("image/")) {
    const image = document.createElement("img");
    image.src = URL.createObjectURL(await response.blob());
    image.alt = "The answer, a picture";
    return image;
  }
  const text = await response.text();
  const shown = document.createElement("pre");
  shown.tabIndex = 0;
  shown.append(document.createElement("code"));
  shown.firstChild.textContent = type.startsWith("application/json") ? readable(text) : text;
  return shown;
}

// Pictures in an answer are texts of many thousand characters.
function readable(text) {
  const shortened = (_, value) =>
    typeof value === "string" && value.length > LONGEST
      ? `${value.slice(0, 40)}… (${value.length.toLocaleString("en")} characters)`
      : value;
  return JSON.stringify(JSON.parse(text), shortened, 2);
}
