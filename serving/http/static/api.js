// The server's routes as functions; errors are its own words.

const KEY = "gapgate-key";

export class ApiError extends Error {
  constructor(status, { code, message, request_id: requestId }) {
    super(message);
    Object.assign(this, { status, code, requestId });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const saveKey = (key) => sessionStorage.setItem(KEY, key);
export const keyHeader = () => (hasKey() ? { "X-API-Key": sessionStorage.getItem(KEY) } : {});

// `image` (a Blob) is sent as a form, so that the server and not the file's name decides what it is.
export async function call(path, { image, signal } = {}) {
  const options = { signal, headers: keyHeader() };
  if (image) {
    options.method = "POST";
    options.body = new FormData();
    options.body.append("image", image, image.name || "image.png");
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { code: "no_answer", message: "The server does not answer." });
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const unknown = { code: "unknown", message: `The server answered with status ${response.status}.` };
  throw new ApiError(response.status, answer?.error ?? unknown);
}

export const model = () => call("v1/model");
export const predict = (image, signal) => call("v1/predict?top_k=5", { image, signal });
export const similar = (image, signal) => call("v1/similar?k=10", { image, signal });
export const receipt = (digest, signal) => call(`v1/receipts/${digest}`, { signal });

export function explain(image, signal, { className = "", featureMaps = false } = {}) {
  const query = new URLSearchParams();
  if (className) query.set("class", className);
  if (featureMaps) query.set("feature_maps", "true");
  return call(`v1/explain?${query}`, { image, signal });
}
