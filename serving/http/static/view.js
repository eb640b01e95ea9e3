// Answers of the server as elements. Text goes in as text, never as HTML.

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  const { class: className, ...rest } = properties;
  if (className) node.className = className;
  Object.assign(node, rest);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

export function percent(fraction) {
  if (!Number.isFinite(fraction)) return "unknown";
  if (fraction > 0 && fraction < 0.0005) return "< 0.1 %";
  if (fraction < 1 && fraction >= 0.9995) return "> 99.9 %";
  return `${(fraction * 100).toFixed(1)} %`;
}

// A true minus sign, as everywhere else; −0.04 is 0.0.
const points = (value) => (Number.isFinite(value) ? value.toFixed(1).replace(/^-(?!0\.0$)/, "−").replace("-", "") : "?");
const number = (value) => value.toLocaleString("en");
export const bytes = (count) => (count >= 2 ** 20 ? `${+(count / 2 ** 20).toFixed(1)} MiB` : `${+(count / 2 ** 10).toFixed(1)} KiB`);
const data = (type, base64) => `data:${type};base64,${base64}`;

function facts(rows) {
  const known = rows.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return el("dl", { class: "facts" }, known.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

const code = (text) => (text ? el("code", {}, text) : "");
const verdict = (word) => el("span", { class: `verdict ${word}` }, word);

function gap({ points: value, low, high }) {
  if (!Number.isFinite(value)) return "";
  const interval = Number.isFinite(low) && Number.isFinite(high) ? ` (95 %: ${points(low)} to ${points(high)})` : "";
  return `${points(value)} points${interval}`;
}

export function prediction(answer, elapsedMs) {
  // Objects put names like "9" in numeric order, so the server's order is lost.
  const ranked = Object.entries(answer.probabilities).sort(([, a], [, b]) => b - a);
  const bars = ranked.map(([name, probability]) => {
    const bar = el("i");
    bar.style.width = `${probability * 100}%`;
    const track = el("span", { class: "track", ariaHidden: "true" }, bar);
    return el("li", {}, el("span", { class: "name" }, name), el("span", { class: "figure" }, percent(probability)), track);
  });
  return [
    el("p", { class: "headline" }, el("b", { id: "class" }, answer.class), el("span", {}, percent(answer.confidence))),
    el("ol", { class: "bars" }, bars),
    el("p", { class: "note foot" }, `${Math.round(elapsedMs)} ms · request `, code(answer.request_id)),
  ];
}

export function heatMap(answer) {
  const { class: name, drops, patch_px: patchPx, stride_px: stridePx } = answer;
  const largest = Math.max(...drops.flat());
  const strongest =
    largest >= 0.0005
      ? `Hiding the most telling patch lowers the probability of ${name} by ${(largest * 100).toFixed(1)} points.`
      : `No single patch carries ${name}: hiding any of them does not lower its probability.`;
  return el(
    "figure",
    { class: "heat" },
    el("img", { src: data("image/png", answer.heat_png), alt: `Heat map for ${name}` }),
    el(
      "figcaption",
      {},
      el("ul", { class: "legend" }, el("li", {}, "speaks for it"), el("li", {}, "speaks against it")),
      el("p", {}, strongest),
      el("p", { class: "note" }, `By occlusion: a patch of ${patchPx} px is moved in steps of ${stridePx} px.`),
    ),
  );
}

export function featureMaps(sheets) {
  if (!sheets.length) return el("p", { class: "note" }, "This model has no layer with feature maps.");
  return el(
    "div",
    { class: "sheets" },
    sheets.map(({ layer, shape: [count, height, width], png }) =>
      el(
        "figure",
        {},
        el("figcaption", {}, `${layer}: ${number(count)} maps of ${width} × ${height} px`),
        el("img", { class: "pixels", src: data("image/png", png), alt: `Feature maps of layer ${layer}` }),
      ),
    ),
  );
}

export function neighbours(answer) {
  const items = answer.neighbours.map(({ id, class: name, distance, thumbnail }) => {
    const picture = el("img", { src: data("image/jpeg", thumbnail), alt: "", class: "thumbnail" });
    picture.addEventListener("load", () => picture.classList.toggle("pixels", picture.naturalWidth < 64));
    const place = id.split("/").flatMap((part, index) => (index ? ["/", el("wbr"), part] : [part]));
    return el("li", {}, picture, el("b", {}, name), el("span", {}, `distance ${distance.toFixed(3)}`), el("span", {}, place));
  });
  const list = el("ul", { class: "neighbours" }, items);
  if (!answer.is_far) return list;
  const [nearest, usual] = [answer.neighbours[0].distance, answer.usual_distance].map((value) => value.toFixed(3));
  const hint = `Unlike all training images: the nearest is ${nearest} away, and 99 % of them have another within ${usual}. The image may show none of the classes; do not trust the confidence.`;
  return [el("p", { class: "hint", role: "note" }, hint), list];
}

const ORDER = ["dataset", "splits", "policy", "model", "evaluation", "certificate", "registration"];
const rank = (kind) => (ORDER.includes(kind) ? ORDER.indexOf(kind) : ORDER.length);

const link = (url, text) => (url ? el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, text) : "");

export function receipt(digest, { receipt: content, lineage, package: packageDigest, run_url: run, report_url: report }) {
  const { figures } = content;
  const chain = Object.entries(lineage)
    .sort(([a], [b]) => rank(a) - rank(b))
    .map(([kind, manifest]) => el("li", {}, el("b", {}, kind), code(manifest.digest)));
  return [
    facts([
      ["Digest", code(digest)],
      ["Verdict", verdict(content.verdict)],
      ["Accuracy", "test_accuracy" in figures ? `${percent(figures.test_accuracy)} on test, ${percent(figures.train_accuracy)} on training images` : ""],
      ["Gap", gap({ points: figures.gap_points, low: figures.gap_low, high: figures.gap_high })],
      ["Data", content.data.source],
      ["Data hash", code(content.data.dvc_hash)],
      ["Run", code(content.run)],
      ["Open", run ? el("span", {}, link(run, "run in MLflow"), " · ", link(report, "report")) : ""],
      ["Code revision", code(content.code_revision)],
      ["Package", code(packageDigest)],
    ]),
    el("h3", {}, "Lineage"),
    el("ol", { class: "chain" }, chain),
  ];
}

export function modelCard(card) {
  const { input } = card;
  const checks = card.gate.checks.map((check) =>
    el("li", {}, el("span", { class: `verdict ${check.verdict}` }, `${check.verdict}: ${check.name}`), check.reason),
  );
  return [
    facts([
      ["Name", card.name],
      ["Version", card.version],
      ["Verdict", verdict(card.gate.verdict)],
      ["Test accuracy", "test_accuracy" in card.metrics ? percent(card.metrics.test_accuracy) : ""],
      ["Gap", gap(card.gap)],
      ["Input", `${input.width} × ${input.height} px, ${input.mode === "gray" ? "gray" : "RGB"}`],
      ["Limits", `${bytes(input.max_body_bytes)}, ${number(input.max_pixels)} pixels, ${number(input.max_batch)} images a batch`],
    ]),
    el("details", {}, el("summary", {}, `Classes: ${number(card.classes.length)}`), el("p", { class: "names" }, card.classes.join(", "))),
    checks.length ? el("details", {}, el("summary", {}, `Checks of the gate: ${checks.length}`), el("ul", { class: "checks" }, checks)) : null,
    el(
      "details",
      {},
      el("summary", {}, "Provenance"),
      facts([
        ["Training data", code(card.training_data)],
        ["Code revision", code(card.code_revision)],
        ["Package", code(card.package)],
        ["Runs on", Object.entries(card.versions).map(([name, version]) => `${name} ${version}`).join(", ")],
      ]),
    ),
  ].filter(Boolean);
}

export function problem(error, retry) {
  const about = [error.code, error.requestId && `request ${error.requestId}`].filter(Boolean).join(" · ");
  const button = el("button", { type: "button" }, "Try again");
  button.addEventListener("click", retry);
  return el("div", { class: "problem", role: "alert" }, el("b", {}, error.message), el("p", { class: "note" }, about), button);
}
