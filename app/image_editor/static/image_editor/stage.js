// One edit: its progress, its result, and the image before and after it.

import { FINAL, call, path, watch } from "./api.js";
import { $, badge, explained, fill, number, say, size, when } from "./parts.js";

const stage = $("stage");
const frame = $("frame");
const after = $("after");
const before = $("before");
let known = null; // the document from the answer to our POST: shown once, before the first event
let shown = null; // the document on the stage

/** Notes an edit that was just accepted. */
export const expect = (edit) => (known = edit);

/** Shows a photo that was chosen, until there is an edit. */
export function preview(file) {
  const image = $("chosen");
  if (image.file === file) return;
  URL.revokeObjectURL(image.src);
  image.file = file;
  image.hidden = !file;
  if (file) image.src = URL.createObjectURL(file);
}
$("chosen").addEventListener("error", ({ target }) => (target.hidden = true));

function showEdit(edit) {
  const first = shown?.id !== edit.id;
  if (first) clearStage();
  shown = edit;
  $("stage-empty").hidden = true;
  $("stage-edit").hidden = false;
  $("stage-prompt").textContent = edit.prompt;
  badge($("stage-badge"), edit.status);
  $("stage-meta").textContent = describe(edit);
  const ended = FINAL.has(edit.status);
  const text = statusText(edit);
  if ($("stage-status").textContent !== text) $("stage-status").textContent = text; // screen readers say it once, not every second
  $("stage-status").classList.toggle("unseen", ended); // the badge shows it to those who see
  showProgress(edit, ended);
  say($("stage-error"), edit.error ? explained(edit.error) : "");
  $("cancel-edit").hidden = ended;
  $("to-batch").hidden = !edit.batch_id;
  $("to-batch").href = `#/batches/${edit.batch_id}`;
  if (first && isOurs(edit.image_url)) before.src = edit.image_url;
  if (edit.status === "succeeded" && !after.src) showResult(edit);
  arrange();
}

function clearStage() {
  for (const image of [before, after]) image.removeAttribute("src");
  for (const id of ["prompt", "badge", "meta", "status"]) $(`stage-${id}`).textContent = "";
  for (const id of ["stage-progress", "download", "load-original", "cancel-edit", "to-batch"]) $(id).hidden = true;
  say($("stage-error"), "");
  $("divide").value = 50;
  divide();
  arrange();
}

function statusText({ status, percent }) {
  if (status === "accepted" || status === "queued") return gettext("Waiting for a free worker.");
  if (status === "processing") return percent > 0 ? gettext("The image is being edited.") : gettext("The image is being fetched.");
  if (status === "succeeded") return gettext("The edit is done.");
  return status === "cancelled" ? gettext("The edit was cancelled.") : gettext("The edit failed.");
}

function showProgress({ status, percent }, ended) {
  const progress = $("stage-progress");
  progress.hidden = ended;
  if (status === "processing") progress.value = percent;
  else progress.removeAttribute("value");
}

/** When an edit was accepted, and its result in numbers. */
export function describe({ accepted_at, result }) {
  const facts = [when(accepted_at)];
  if (result) facts.push(`${number(result.width)} × ${number(result.height)}`, size(result.bytes));
  return facts.join(" · ");
}

function host(url) {
  return URL.canParse(url) ? new URL(url).host : gettext("the web");
}

/** Uploads come from the media store; other originals are on somebody else's server. */
export const isOurs = (url) => url.startsWith(document.querySelector("[data-media]").dataset.media);

function showResult(edit) {
  after.src = edit.result_url;
  frame.style.setProperty("--ratio", edit.result.width / edit.result.height);
  frame.style.setProperty("--width", `${edit.result.width}px`);
  $("download").href = edit.result_url;
  $("download").download = `edit-${edit.id.slice(0, 8)}.${new URL(edit.result_url, location).pathname.split(".").pop()}`;
  $("download").hidden = false;
  if (!isOurs(edit.image_url) && edit.image_url.startsWith("https:")) {
    // Only on request: it tells the other server that somebody looks at the edit.
    say($("load-original"), fill(gettext("Compare with the original at %(host)s"), { host: host(edit.image_url) }));
  }
}

$("load-original").addEventListener("click", () => {
  before.src = shown.image_url;
  $("load-original").hidden = true;
  stage.focus();
});

const loaded = (image) => image.src && image.complete && image.naturalWidth > 0;

/** Chooses what the frame shows: the slider needs two images of one shape. */
function arrange() {
  const both = loaded(before) && loaded(after);
  const shape = (image) => image.naturalWidth / image.naturalHeight;
  const alike = both && Math.abs(shape(before) / shape(after) - 1) < 0.02;
  frame.hidden = !(loaded(before) || loaded(after));
  $("modes").hidden = !alike;
  if (alike) frame.style.setProperty("--width", `${Math.max(before.naturalWidth, after.naturalWidth)}px`);
  if (!both) frame.dataset.mode = loaded(after) ? "after" : "before";
  else if (!alike) frame.dataset.mode = "beside";
  else if (!["slider", "beside"].includes(frame.dataset.mode)) frame.dataset.mode = "slider";
  for (const button of $("modes").children) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === frame.dataset.mode));
  }
}

for (const image of [before, after]) {
  image.addEventListener("load", arrange);
  image.addEventListener("error", () => {
    if (!image.getAttribute("src")) return;
    image.removeAttribute("src");
    const noOriginal = gettext("The original is no longer available.");
    const noResult = gettext("The result could not be loaded: reload the page.");
    say($("stage-error"), image === before ? noOriginal : noResult);
    arrange();
  });
}

function divide() {
  frame.style.setProperty("--at", `${$("divide").value}%`);
}
$("divide").addEventListener("input", divide);
$("modes").addEventListener("click", ({ target }) => {
  if (!target.dataset.mode) return;
  frame.dataset.mode = target.dataset.mode;
  arrange();
});

$("cancel-edit").addEventListener("click", async () => {
  try {
    showEdit(await call(`${path("edits", shown.id)}/cancel`, { method: "POST" }));
    stage.focus();
  } catch (problem) {
    say($("stage-error"), problem.message);
  }
});

export function closeStage() {
  shown = null;
  clearStage();
  $("stage-edit").hidden = true;
  $("stage-empty").hidden = false;
}

/** Shows an edit and watches it. Returns a function that ends this. */
export function openEdit(id) {
  if (shown?.id !== id) closeStage();
  if (known?.id === id) showEdit(known);
  known = null; // who comes back later sees what the API says then
  $("stage-empty").hidden = true;
  stage.focus({ preventScroll: true });
  if (stage.getBoundingClientRect().top > window.innerHeight / 2) stage.scrollIntoView(); // on a phone it is far down the page
  return watch("edits", id, showEdit, (problem) => {
    $("stage-edit").hidden = false;
    $("stage-status").textContent = ""; // what was last known may be over
    $("stage-progress").hidden = true;
    say($("stage-error"), problem.message);
  });
}
