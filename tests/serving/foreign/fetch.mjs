// Node's own fetch. Arguments: address and file; prints status and answer of each request, a line each.
import { readFileSync } from "node:fs";

const [url, file] = process.argv.slice(2);
const bytes = readFileSync(file);
const form = (content) => {
  const fields = new FormData();
  fields.append("image", new Blob([content], { type: "image/png" }), "cat.png");
  return { body: fields };
};
const many = new FormData();
many.append("images", new Blob([bytes]), "1.png");
many.append("images", new Blob([bytes]), "2.png");
const requests = [
  ["predict", form(bytes)],
  ["predict", { body: bytes, headers: { "content-type": "image/png" } }],
  ["predict", { body: JSON.stringify({ image: bytes.toString("base64") }), headers: { "content-type": "application/json" } }],
  ["predict/batch", { body: many }],
  ["predict", form("no image")],
];
for (const [path, request] of requests) {
  const answer = await fetch(`${url}/v1/${path}`, { method: "POST", ...request });
  console.log(JSON.stringify([answer.status, await answer.json()]));
}
