// The page for people. It uses nothing but the API. Strangers may have written what the API returns, so it becomes text
// or a link to where the API points, never markup.
// `gettext`, `ngettext` and `interpolate` are Django's, from messages.js. The API translates the errors that it answers.

const $ = (id) => document.getElementById(id);
const csrf = document.querySelector("#sign-out [name=csrfmiddlewaretoken]").value;
const FINAL = new Set(["succeeded", "failed", "cancelled", "finished", "delivered", "dead", "active", "expired"]);
const THUMBNAIL_MAX_BYTES = 1_500_000; // results are not scaled down: a list must not load 20 large images on a phone
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const STATUS = {
  accepted: gettext("Accepted"),
  queued: gettext("Waiting"),
  processing: gettext("Editing"),
  succeeded: gettext("Done"),
  failed: gettext("Failed"),
  cancelled: gettext("Cancelled"),
  finished: gettext("Finished"),
  pending: gettext("Waiting"),
  delivered: gettext("Delivered"),
  dead: gettext("Given up"),
  active: gettext("Active"),
  expired: gettext("Expired"),
};

// --- the API ---------------------------------------------------------------------------------------------------------

class Problem extends Error {
  constructor({ status = 0, code = "", detail, errors = [] }, retryAfter = 0) {
    super(detail);
    Object.assign(this, { status, code, errors, retryAfter });
  }
}

/** The document at a path of the API. Throws Problem; its status is 0 if there was no answer. */
async function call(path, { headers, ...options } = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { Accept: "application/json", "X-CSRFToken": csrf, ...headers } });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem({ detail: gettext("The server cannot be reached. Check your connection and try again.") });
  }
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  if (answer.status === 401) throw new Problem({ status: 401, detail: gettext("You are signed out. Reload the page to sign in again.") });
  const unknown = fill(gettext("The server answered %(status)s. Try again in a moment."), answer);
  const detail = sentence(found.detail || unknown);
  throw new Problem({ ...found, status: answer.status, detail }, Number(answer.headers.get("Retry-After")) || 0);
}

/** Shows a document again and again until it is final: every second while it moves, less often while it does not. */
function watch(path, show, lost) {
  const controller = new AbortController();
  const { signal } = controller;
  let timer = 0;
  let delay = 400;
  let before = "";

  async function look() {
    timer = 0;
    if (document.hidden) return; // `visibilitychange` goes on
    try {
      const found = await call(path, { signal });
      show(found);
      if (FINAL.has(found.status)) return controller.abort();
      const now = `${found.status} ${found.percent} ${found.finished}`;
      delay = now === before ? Math.min(Math.max(delay, 1000) * 1.2, 5000) : 1000;
      before = now;
    } catch (problem) {
      if (signal.aborted) return;
      lost(problem);
      if ([401, 403, 404].includes(problem.status)) return controller.abort();
      delay = Math.max(Math.min(delay * 2, 15_000), 1000 * (problem.retryAfter ?? 0));
    }
    if (!signal.aborted) timer = setTimeout(look, delay);
  }

  document.addEventListener("visibilitychange", () => document.hidden || timer || look(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  timer = setTimeout(look, 0);
  return () => controller.abort();
}

/** A key that stays the same when the same form is sent again, so that a lost answer never leads to a second edit. */
function keeper() {
  let key = "";
  let sent = null;
  return {
    for(...fields) {
      if (!sent || fields.some((field, index) => field !== sent[index])) [key, sent] = [crypto.randomUUID(), fields];
      return key;
    },
    forget: () => (sent = null),
  };
}

// --- small things ----------------------------------------------------------------------------------------------------

/** A text of messages.js with values in the place of %(name)s. */
const fill = (text, values) => interpolate(text, values, true);
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?。！？]$/.test(text) ? "" : gettext("."));
const language = document.documentElement.lang;
const moment = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const when = (iso) => moment.format(new Date(iso));
const path = (kind, id) => `/api/v1/${kind}/${id}`;

function size(bytes) {
  const kilo = bytes / 1024;
  return kilo < 1000 ? `${Math.max(1, Math.round(kilo))} kB` : `${(kilo / 1024).toFixed(1)} MB`;
}

function host(url) {
  return URL.canParse(url) ? new URL(url).host : gettext("the web");
}

/** Text in an element that is hidden while it has none. */
function say(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

function badge(element, status) {
  element.dataset.status = status;
  element.textContent = STATUS[status];
}

/** Shows each message below its field and moves the focus to the first field. */
function complain(fields, messages) {
  let first = null;
  for (const [name, input] of Object.entries(fields)) {
    say($(`${input.id}-error`), messages[name] ?? "");
    input.setAttribute("aria-invalid", String(Boolean(messages[name])));
    if (messages[name]) first ??= input;
  }
  first?.focus();
}

/** Runs a form's request with the button disabled, so that a second press does not send it again. */
async function submitting(form, label, request) {
  const button = form.querySelector("[type=submit]");
  const before = button.textContent;
  button.setAttribute("aria-disabled", "true");
  button.textContent = label;
  try {
    await request();
  } finally {
    button.removeAttribute("aria-disabled");
    button.textContent = before;
  }
}

function onSubmit(form, handler) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!form.querySelector("[type=submit][aria-disabled]")) handler();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

for (const chips of document.querySelectorAll(".chips")) {
  chips.addEventListener("click", ({ target }) => {
    if (!target.matches("button")) return;
    const prompt = $(chips.dataset.for);
    const before = prompt.value.trim().replace(/[,，]$/, "");
    prompt.value = before ? `${before}, ${target.textContent}` : target.textContent;
  });
}

// --- the form for one edit -------------------------------------------------------------------------------------------

const form = $("edit-form");
const picture = $("picture");
const fields = { picture, url: $("url"), prompt: $("prompt") };
const editKey = keeper();

function showPicture() {
  const file = picture.files[0];
  const preview = $("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = !file;
  if (file) preview.src = URL.createObjectURL(file);
  else preview.removeAttribute("src");
  $("picture-name").textContent = file ? file.name : gettext("Choose a photo");
  $("picture-hint").hidden = Boolean(file);
  $("picture-remove").hidden = !file;
  if (file) {
    fields.url.value = "";
    complain({ picture, url: fields.url }, { picture: tooLarge(file) });
  }
}

function tooLarge(file) {
  const most = Number(form.dataset.maxBytes);
  const tooMuch = gettext("This file has %(size)s. Choose one of at most %(most)s.");
  return file.size > most ? fill(tooMuch, { size: size(file.size), most: size(most) }) : "";
}

function take(files) {
  const file = [...files].find((one) => one.type.startsWith("image/"));
  if (!file) return false;
  const transfer = new DataTransfer();
  transfer.items.add(file);
  picture.files = transfer.files;
  showPicture();
  return true;
}

function removePicture() {
  picture.value = "";
  showPicture();
}

picture.addEventListener("change", showPicture);
fields.url.addEventListener("input", () => fields.url.value && picture.files.length && removePicture());
$("picture-remove").addEventListener("click", () => {
  removePicture();
  picture.focus();
});

// A photo dropped beside the zone must not make the browser leave the page.
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("drop").classList.toggle("over", name.endsWith("over") || name.endsWith("enter"));
    if (name === "drop" && take(event.dataTransfer.files)) location.hash = "#/";
  });
}
document.addEventListener("paste", (event) => {
  if (route().view !== "edit") return;
  if (take(event.clipboardData.files)) return event.preventDefault();
  const text = event.clipboardData.getData("text").trim();
  if (!event.target.matches("input[type=url], textarea") && /^https?:\/\/\S+$/.test(text)) {
    removePicture();
    fields.url.value = text;
    fields.url.focus();
    event.preventDefault();
  }
});

onSubmit(form, () => {
  const file = picture.files[0];
  const url = fields.url.value.trim();
  const prompt = fields.prompt.value.trim();
  say($("edit-form-error"), "");
  const missing = {};
  if (!file && !url) missing.picture = gettext("Choose a photo, or give the address of one.");
  if (file) missing.picture = tooLarge(file);
  if (!prompt) missing.prompt = gettext("Say what should be done with the image.");
  complain(fields, missing);
  if (Object.values(missing).some(Boolean)) return;

  const headers = { "Idempotency-Key": editKey.for(file, url, prompt) };
  let body;
  if (file) {
    body = new FormData();
    body.append("image", file);
    body.append("prompt", prompt);
  } else {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify({ image_url: url, prompt });
  }
  submitting(form, file ? gettext("Uploading…") : gettext("Sending…"), async () => {
    try {
      const edit = await call("/api/v1/edits", { method: "POST", headers, body });
      editKey.forget();
      known = edit;
      location.hash = `#/edits/${edit.id}`;
    } catch (problem) {
      if (problem.status >= 400 && problem.status < 500) editKey.forget();
      report(problem);
    }
  });
});

/** The field that a problem is about. */
function fieldOf(problem) {
  const name = problem.code === "invalid" ? (problem.errors[0]?.field ?? "") : problem.code;
  if (name.startsWith("prompt")) return "prompt";
  if (name.startsWith("image_url")) return "url";
  if (name.startsWith("image") || problem.code === "too_large") return picture.files.length ? "picture" : "url";
  return "";
}

/** A message without the name of the API's field: it stands below the field. */
const plain = (message) => sentence(message.replace(/^(image_url: |url: |change these fields: |请修改这些字段：)/i, ""));

function report(problem) {
  const field = fieldOf(problem);
  complain(fields, field ? { [field]: plain(problem.message) } : {});
  say($("edit-form-error"), field ? "" : problem.message);
}

// --- one edit on the stage -------------------------------------------------------------------------------------------

const stage = $("stage");
const frame = $("frame");
const after = $("after");
const before = $("before");
let known = null; // the document from the answer to our POST: shown before the first poll
let shown = null; // the document on the stage

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
  say($("stage-error"), edit.error ? sentence(edit.error.detail) : "");
  $("cancel-edit").hidden = ended;
  $("to-batch").hidden = !edit.batch_id;
  $("to-batch").href = `#/batches/${edit.batch_id}`;
  if (first && isOurs(edit.image_url)) before.src = edit.image_url;
  if (edit.status === "succeeded" && !after.src) showResult(edit);
  arrange();
}

function clearStage() {
  for (const image of [before, after]) image.removeAttribute("src");
  for (const id of ["download", "load-original"]) $(id).hidden = true;
  say($("stage-error"), "");
  delete frame.dataset.mode;
  $("divide").value = 50;
  divide();
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

function describe({ accepted_at, result }) {
  const facts = [when(accepted_at)];
  if (result) facts.push(`${result.width} × ${result.height}`, size(result.bytes));
  return facts.join(" · ");
}

/** Uploads come from the media store; other originals are on somebody else's server. */
const isOurs = (url) => url.startsWith(document.querySelector("[data-media]").dataset.media);

function showResult(edit) {
  after.src = edit.result_url;
  frame.style.setProperty("--ratio", edit.result.width / edit.result.height);
  frame.style.setProperty("--width", `${edit.result.width}px`);
  $("download").href = edit.result_url;
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

function emptyStage() {
  shown = null;
  $("stage-edit").hidden = true;
  $("stage-empty").hidden = false;
}

function openEdit(id) {
  if (shown?.id !== id) emptyStage();
  if (known?.id === id) showEdit(known);
  $("stage-empty").hidden = true;
  stage.focus({ preventScroll: true });
  if (stage.getBoundingClientRect().top > window.innerHeight / 2) stage.scrollIntoView(); // on a phone it is far down the page
  return watch(
    path("edits", id),
    showEdit,
    (problem) => {
      $("stage-edit").hidden = false;
      say($("stage-error"), problem.message);
    },
  );
}

// --- lists -----------------------------------------------------------------------------------------------------------

function fillEdit(row, edit) {
  row.querySelector("a").href = `#/edits/${edit.id}`;
  row.querySelector(".prompt").textContent = edit.prompt;
  row.querySelector(".meta").textContent = describe(edit);
  badge(row.querySelector(".badge"), edit.status);
  const image = row.querySelector("img");
  if (edit.result_url && image.hidden && edit.result.bytes <= THUMBNAIL_MAX_BYTES) {
    image.src = edit.result_url;
    image.hidden = false;
  }
}

function fillItem(row, edit) {
  fillEdit(row, edit);
  row.querySelector(".meta").textContent = `${edit.error ? sentence(edit.error.detail) : ""} ${edit.image_url}`;
}

function fillBatch(row, batch) {
  row.querySelector("a").href = `#/batches/${batch.id}`;
  row.querySelector(".prompt").textContent = [when(batch.accepted_at), fill(gettext("%(finished)s of %(total)s"), batch)].join(" · ");
  Object.assign(row.querySelector("progress"), { max: batch.total, value: batch.finished });
  badge(row.querySelector(".badge"), batch.status);
}

function fillDelivery(row, { id, url, state, created_at, next_try_at, attempts }) {
  const facts = [when(created_at)];
  const last = attempts.at(-1);
  if (last) {
    const tries = { count: attempts.length };
    facts.push(fill(ngettext("%(count)s try", "%(count)s tries", tries.count), tries));
    facts.push(last.error || fill(gettext("answered %(status)s"), last));
  }
  if (last && next_try_at) facts.push(fill(gettext("next try %(at)s"), { at: when(next_try_at) }));
  row.querySelector(".prompt").textContent = url;
  row.querySelector(".meta").textContent = facts.join(" · ");
  badge(row.querySelector(".badge"), state);
  row.querySelector("button").hidden = !FINAL.has(state);
  row.querySelector("button").dataset.id = id;
}

function fillToken(row, { id, name, scope, state, created_at, expires_at, last_used_at, current }) {
  const facts = [fill(gettext("Made %(at)s"), { at: when(created_at) })];
  if (scope === "read") facts.push(gettext("read only"));
  const expiry = state === "expired" ? gettext("expired %(at)s") : gettext("expires %(at)s");
  if (expires_at) facts.push(fill(expiry, { at: when(expires_at) }));
  facts.push(last_used_at ? fill(gettext("last used %(at)s"), { at: when(last_used_at) }) : gettext("never used"));
  if (current) facts.push(gettext("you have signed in with it"));
  row.querySelector(".prompt").textContent = name || gettext("Without a name");
  row.querySelector(".meta").textContent = facts.join(" · ");
  badge(row.querySelector(".badge"), state);
  for (const button of row.querySelectorAll("button")) button.dataset.id = id;
  row.querySelector("[data-act=rotate]").hidden = state === "expired";
}

/** A list that finds its rows by id, so that a row is changed in place and the focus stays where it is. */
function rows(list, template, fill) {
  const byId = new Map();
  return {
    clear() {
      byId.clear();
      list.replaceChildren();
    },
    /** Adds documents at the end, or new ones at the beginning. */
    put(items, atTop = false) {
      const fresh = [];
      for (const item of items) {
        let row = byId.get(item.id);
        if (!row) {
          row = template.content.firstElementChild.cloneNode(true);
          byId.set(item.id, row);
          fresh.push(row);
        }
        fill(row, item);
      }
      atTop ? list.prepend(...fresh) : list.append(...fresh);
      return fresh;
    },
  };
}

/** Pages of a list. The first page is polled while an edit on it is unfinished. */
function pages(address, name, template, fill) {
  const list = rows($(name), $(template), fill);
  const older = $(`${name}-older`);
  let next = null;

  async function load(from, atTop = false) {
    const page = await call(from);
    say($(`${name}-error`), "");
    const fresh = list.put(page.items, atTop);
    $(`${name}-empty`).hidden = $(name).childElementCount > 0;
    return { page, fresh };
  }

  function offer(page) {
    next = page.next;
    older.hidden = !next;
  }

  older.addEventListener("click", async () => {
    try {
      const { page, fresh } = await load(next);
      offer(page);
      fresh[0]?.querySelector("a, button").focus();
    } catch (problem) {
      say($(`${name}-error`), problem.message);
    }
  });

  return function open() {
    let timer = 0;
    let closed = false;
    list.clear();
    async function look(again) {
      if (closed) return;
      let moving = true;
      if (!document.hidden) {
        try {
          const { page } = await load(address, again);
          if (!again) offer(page);
          moving = page.items.some(({ status, state }) => !FINAL.has(status ?? state));
          again = true;
        } catch (problem) {
          say($(`${name}-error`), problem.message);
          if (problem.status === 401) return;
        }
      }
      if (moving && !closed) timer = setTimeout(look, 3000, again);
    }
    look(false);
    return () => {
      closed = true;
      clearTimeout(timer);
    };
  };
}

const openHistory = pages("/api/v1/edits", "edits", "edit-row", fillEdit);
const openBatches = pages("/api/v1/batches?limit=10", "batches", "batch-row", fillBatch);
const openDeliveries = pages("/api/v1/webhooks/deliveries", "deliveries", "delivery-row", fillDelivery);
const openTokenList = pages("/api/v1/tokens", "tokens", "token-row", fillToken);

// --- batches ---------------------------------------------------------------------------------------------------------

const batchForm = $("batch-form");
const batchFields = { urls: $("urls"), prompt: $("batch-prompt") };
const batchKey = keeper();

onSubmit(batchForm, () => {
  const urls = batchFields.urls.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const prompt = batchFields.prompt.value.trim();
  say($("batch-form-error"), "");
  const missing = {};
  if (!urls.length) missing.urls = gettext("Give at least one address.");
  const tooMany = gettext("These are %(count)s addresses. Send at most 100 at a time.");
  if (urls.length > 100) missing.urls = fill(tooMany, { count: urls.length });
  if (!prompt) missing.prompt = gettext("Say what should be done with the images.");
  complain(batchFields, missing);
  if (Object.keys(missing).length) return;

  const body = JSON.stringify({ items: urls.map((url) => ({ image_url: url, prompt })) });
  const headers = { "Content-Type": "application/json", "Idempotency-Key": batchKey.for(body) };
  submitting(batchForm, gettext("Sending…"), async () => {
    try {
      const batch = await call("/api/v1/batches", { method: "POST", headers, body });
      batchKey.forget();
      batchForm.reset();
      location.hash = `#/batches/${batch.id}`;
    } catch (problem) {
      if (problem.status >= 400 && problem.status < 500) batchKey.forget();
      reportBatch(problem, urls);
    }
  });
});

/** All items have one prompt, so an error in it is shown once. Errors in addresses name the line. */
function reportBatch(problem, urls) {
  const about = problem.code === "items_invalid" ? problem.errors : [];
  const prompt = about.find(({ code }) => code.startsWith("prompt"));
  const lines = about
    .filter(({ code }) => code.startsWith("image_url"))
    .map(({ index, message }) => `${urls[index]}: ${plain(message)}`);
  const messages = {};
  if (prompt) messages.prompt = sentence(prompt.message);
  if (lines.length) messages.urls = lines.join("\n");
  complain(batchFields, messages);
  say($("batch-form-error"), prompt || lines.length ? "" : problem.message);
}

let openedBatch = "";

function openBatch(id) {
  const items = rows($("items"), $("edit-row"), fillItem);
  openedBatch = id;
  items.clear();
  $("batch-status").textContent = "";
  say($("batch-error"), "");
  $("batch-title").focus();
  return watch(
    path("batches", id),
    (batch) => {
      say($("batch-error"), "");
      $("batch-title").textContent = fill(gettext("Batch of %(at)s"), { at: when(batch.accepted_at) });
      const failed = batch.items.filter(({ status }) => status === "failed").length;
      const ended = failed ? gettext("%(finished)s of %(total)s ended, %(failed)s failed") : gettext("%(finished)s of %(total)s ended");
      $("batch-status").textContent = fill(ended, { ...batch, failed });
      Object.assign($("batch-progress"), { max: batch.total, value: batch.finished });
      $("cancel-batch").hidden = batch.status === "finished";
      items.put(batch.items);
    },
    (problem) => say($("batch-error"), problem.message),
  );
}

$("cancel-batch").addEventListener("click", async () => {
  try {
    await call(`${path("batches", openedBatch)}/cancel`, { method: "POST" });
    open();
  } catch (problem) {
    say($("batch-error"), problem.message);
  }
});

// --- webhooks --------------------------------------------------------------------------------------------------------

const testForm = $("test-form");
const testFields = { receiver: $("receiver") };

onSubmit(testForm, () => {
  const url = testFields.receiver.value.trim();
  say($("test-form-error"), "");
  complain(testFields, { receiver: url ? "" : gettext("Give the address of a receiver.") });
  if (!url) return;
  const headers = { "Content-Type": "application/json" };
  submitting(testForm, gettext("Sending…"), async () => {
    try {
      await call("/api/v1/webhooks/test", { method: "POST", headers, body: JSON.stringify({ url }) });
      open();
    } catch (problem) {
      const about = problem.status === 422;
      complain(testFields, { receiver: about ? plain(problem.message) : "" });
      say($("test-form-error"), about ? "" : problem.message);
    }
  });
});

$("show-secret").addEventListener("click", async () => {
  try {
    const { secret } = await call("/api/v1/webhooks/secret");
    say($("secret"), secret);
  } catch (problem) {
    say($("test-form-error"), problem.message);
  }
});

$("deliveries").addEventListener("click", async ({ target }) => {
  if (!target.matches("button")) return;
  try {
    await call(`${path("webhooks/deliveries", target.dataset.id)}/redeliver`, { method: "POST" });
    open();
  } catch (problem) {
    say($("deliveries-error"), problem.message);
  }
});

function openWebhooks() {
  say($("secret"), ""); // who leaves the view hides it
  return openDeliveries();
}

// --- tokens ----------------------------------------------------------------------------------------------------------

const tokenForm = $("token-form");
const tokenFields = { name: $("token-name") };

function showToken(token) {
  say($("token"), token);
  $("token-hint").hidden = !token;
}

/** Asks the API for a new token and shows it above the list. */
async function newToken(address, body) {
  const headers = { "Content-Type": "application/json" };
  const { token } = await call(address, { method: "POST", headers, body: JSON.stringify(body) });
  open();
  showToken(token);
}

onSubmit(tokenForm, () => {
  const name = tokenFields.name.value.trim();
  const days = Number($("token-days").value);
  say($("token-form-error"), "");
  complain(tokenFields, { name: name ? "" : gettext("Say what the token is for.") });
  if (!name) return;
  const body = { name, scope: $("token-scope").value, expires_in_seconds: days ? days * 86_400 : null };
  submitting(tokenForm, gettext("Making…"), async () => {
    try {
      await newToken("/api/v1/tokens", body);
      tokenForm.reset();
    } catch (problem) {
      say($("token-form-error"), problem.message);
    }
  });
});

const QUESTIONS = {
  rotate: gettext("Replace this token? The former one works for another day."),
  revoke: gettext("Revoke this token? Programs that have it are refused within seconds, and other browsers are signed out."),
};

$("tokens").addEventListener("click", async ({ target }) => {
  const { id, act } = target.dataset;
  if (!act || !confirm(QUESTIONS[act])) return;
  try {
    if (act === "rotate") {
      await newToken(`${path("tokens", id)}/rotate`, {});
    } else {
      await call(path("tokens", id), { method: "DELETE" });
      open();
    }
  } catch (problem) {
    say($("tokens-error"), problem.message);
  }
});

function openTokens() {
  showToken(""); // who leaves the view hides it
  return openTokenList();
}

// --- which view ------------------------------------------------------------------------------------------------------

function openForm() {
  emptyStage();
  return () => {};
}

function route() {
  const [, kind = "", id = ""] = location.hash.split("/");
  if (kind === "edits" && UUID.test(id)) return { view: "edit", tab: "#/", open: () => openEdit(id) };
  if (kind === "batches" && UUID.test(id)) return { view: "batch", tab: "#/batches", open: () => openBatch(id) };
  if (kind === "batches") return { view: "batches", tab: "#/batches", open: openBatches };
  if (kind === "webhooks") return { view: "webhooks", tab: "#/webhooks", open: openWebhooks };
  if (kind === "tokens") return { view: "tokens", tab: "#/tokens", open: openTokens };
  if (kind === "history") return { view: "history", tab: "#/history", open: openHistory };
  return { view: "edit", tab: "#/", open: openForm };
}

let close = () => {};

function open() {
  close();
  const { view, tab, open: opening } = route();
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  close = opening();
}

window.addEventListener("hashchange", open);
open();
