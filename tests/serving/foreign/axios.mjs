// axios. Arguments: address and file; prints status and answer of each request, a line each.
import { readFileSync } from "node:fs";
import axios from "axios";

const [url, file] = process.argv.slice(2);
const bytes = readFileSync(file);
const form = (field, ...files) => {
  const fields = new FormData();
  for (const content of files) fields.append(field, new Blob([content], { type: "image/png" }), "cat.png");
  return fields;
};
const client = axios.create({ baseURL: `${url}/v1`, validateStatus: () => true, proxy: false });
const answers = [
  await client.post("/predict", form("image", bytes)),
  await client.post("/predict", bytes, { headers: { "content-type": "image/png" } }),
  await client.post("/predict", { image: bytes.toString("base64") }),
  await client.post("/predict/batch", form("images", bytes, bytes)),
  await client.post("/predict", form("image", "no image")),
];
for (const answer of answers) console.log(JSON.stringify([answer.status, answer.data]));
