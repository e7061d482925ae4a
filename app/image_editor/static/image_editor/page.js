// The page for people. It uses nothing but the API. Strangers may have written what the API returns, so it becomes text
// or a link to where the API points, never markup.

import { FINAL, call, path, watch } from "./api.js";
import { plain } from "./form.js";
import { pages, rows, takeAway } from "./lists.js";
import { $, STATUS, badge, complain, explained, fill, number, onSubmit, say, submitting, when } from "./parts.js";
import { closeStage, describe, isOurs, openEdit } from "./stage.js";

const THUMBNAIL_MAX_BYTES = 1_500_000; // results are not scaled down: a list must not load 20 large images on a phone
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

// --- the history -----------------------------------------------------------------------------------------------------

function fillEdit(row, edit) {
  row.querySelector("a").href = `#/edits/${edit.id}`;
  row.querySelector(".prompt").textContent = edit.prompt;
  row.querySelector(".meta").textContent = describe(edit);
  row.querySelector("[data-act=delete]").dataset.id = edit.id;
  row.querySelector("[data-act=again]").value = edit.prompt;
  badge(row.querySelector(".badge"), edit.status);
  const image = row.querySelector("img");
  if (edit.result_url && image.hidden && edit.result.bytes <= THUMBNAIL_MAX_BYTES) {
    image.src = edit.result_url;
    image.hidden = false;
  }
}

for (const status of ["accepted", "queued", "processing", "succeeded", "failed", "cancelled"]) {
  $("filter-status").add(new Option(STATUS[status], status));
}

/** The address of the first page of the edits that the filters name. Their days begin where the reader is. */
function editsAddress() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData($("filters"))) {
    if (value) query.set(name, name.startsWith("accepted") ? moment(name, value) : value);
  }
  return `/api/v1/edits?${query}`;
}

function moment(name, day) {
  const at = new Date(`${day}T00:00`);
  if (name === "accepted_before") at.setDate(at.getDate() + 1); // the chosen day is shown, too
  return at.toISOString();
}

const openHistory = pages(editsAddress, "edits", "edit-row", fillEdit);

onSubmit($("filters"), () => open());
$("filters").addEventListener("reset", () => setTimeout(open)); // once the fields are empty

$("edits").addEventListener("click", async ({ target }) => {
  const { id, act } = target.dataset;
  if (act === "again") useAgain(target.value);
  if (act !== "delete" || !confirm(gettext("Delete this edit and its images? This cannot be undone."))) return;
  try {
    await call(path("edits", id), { method: "DELETE" });
    takeAway(target.closest("li"), document.querySelector("[data-view=history] h1"));
    $("edits-empty").hidden = $("edits").childElementCount > 0;
  } catch (problem) {
    say($("edits-error"), problem.message);
  }
});

/** Puts a prompt into the form, for another image. */
function useAgain(text) {
  const prompt = $("prompt");
  location.hash = "#/";
  open(); // `hashchange` would come after the focus
  prompt.value = text;
  prompt.dispatchEvent(new Event("input"));
  prompt.focus();
}

// --- batches ---------------------------------------------------------------------------------------------------------

function fillBatch(row, batch) {
  row.querySelector("a").href = `#/batches/${batch.id}`;
  row.querySelector(".prompt").textContent = [when(batch.accepted_at), fill(gettext("%(finished)s of %(total)s"), batch)].join(" · ");
  Object.assign(row.querySelector("progress"), { max: batch.total, value: batch.finished });
  badge(row.querySelector(".badge"), batch.status);
}

const openBatches = pages(() => "/api/v1/batches?limit=10", "batches", "batch-row", fillBatch);

function fillItem(row, edit) {
  fillEdit(row, edit);
  const origin = isOurs(edit.image_url) ? describe(edit) : edit.image_url; // the address of an upload is signed, and says nothing
  row.querySelector(".meta").textContent = `${edit.error ? explained(edit.error) : ""} ${origin}`;
  row.querySelector(".actions").hidden = true; // the batch is deleted as a whole
}

const BATCH = $("batch-title").textContent; // until its date is known
let openedBatch = "";

function openBatch(id) {
  const items = rows($("items"), $("edit-row"), fillItem);
  openedBatch = id;
  items.clear();
  $("batch-status").textContent = "";
  say($("batch-error"), "");
  $("batch-title").textContent = BATCH;
  $("batch-progress").removeAttribute("value");
  $("cancel-batch").hidden = true;
  $("batch-title").focus();
  return watch(
    "batches",
    id,
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

$("delete-batch").addEventListener("click", async () => {
  if (!confirm(gettext("Delete this batch, its edits and their images? This cannot be undone."))) return;
  try {
    await call(path("batches", openedBatch), { method: "DELETE" });
    location.hash = "#/batches";
  } catch (problem) {
    say($("batch-error"), problem.message);
  }
});

// --- webhooks --------------------------------------------------------------------------------------------------------

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

const openDeliveries = pages(() => "/api/v1/webhooks/deliveries", "deliveries", "delivery-row", fillDelivery);

const testForm = $("test-form");
const testFields = { receiver: $("receiver") };

onSubmit(testForm, () => {
  const url = testFields.receiver.value.trim();
  say($("test-form-error"), "");
  complain(testFields, { receiver: url ? "" : gettext("Give the address of a receiver.") });
  if (!url) return;
  submitting(testForm, gettext("Sending…"), async () => {
    try {
      await call("/api/v1/webhooks/test", { json: { url } });
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
    $("deliveries-title").focus(); // the button goes away
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

function fillToken(row, { id, name, scope, manages_tokens, state, created_at, expires_at, last_used_at, current }) {
  const facts = [fill(gettext("Made %(at)s"), { at: when(created_at) })];
  if (scope === "read") facts.push(gettext("read only"));
  if (manages_tokens) facts.push(gettext("manages tokens"));
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

const openTokenList = pages(() => "/api/v1/tokens", "tokens", "token-row", fillToken);

const tokenForm = $("token-form");
const tokenFields = { name: $("token-name") };

let shownId = ""; // the id of the token whose value is on the page

function showToken(token, id = "") {
  shownId = id;
  say($("token"), token);
  $("token-hint").hidden = !token;
}

/** Asks the API for a new token and shows it beside the list. */
async function newToken(address, json) {
  const { id, token } = await call(address, { json });
  open();
  showToken(token, id);
  $("token").focus();
}

onSubmit(tokenForm, () => {
  const name = tokenFields.name.value.trim();
  const days = Number($("token-days").value);
  say($("token-form-error"), "");
  complain(tokenFields, { name: name ? "" : gettext("Say what the token is for.") });
  if (!name) return;
  const may = $("token-scope").value;
  const body = {
    name,
    scope: may === "read" ? "read" : "write",
    manages_tokens: may === "write",
    expires_in_seconds: days ? days * 86_400 : null,
  };
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
      if (id === shownId) showToken("");
      takeAway(target.closest("li"), $("tokens-title"));
    }
  } catch (problem) {
    say($("tokens-error"), problem.message);
  }
});

function openTokens() {
  showToken(""); // who leaves the view hides it
  return openTokenList();
}

// --- usage -----------------------------------------------------------------------------------------------------------

const LIMITS = {
  "edits minute": gettext("Edits in this minute"),
  "edits day": gettext("Edits today"),
  "dry_runs minute": gettext("Previews in this minute"),
};
const usage = rows($("usage"), $("usage-row"), fillLimit);

function fillLimit(row, { id, limit, used, resets_at }) {
  const facts = { used: number(used), limit: number(limit), at: when(resets_at) };
  row.querySelector(".prompt").textContent = LIMITS[id];
  row.querySelector(".meta").textContent = fill(gettext("%(used)s of %(limit)s used, begins again at %(at)s"), facts);
  const progress = Object.assign(row.querySelector("progress"), { max: limit, value: used });
  progress.setAttribute("aria-label", LIMITS[id]);
}

function openUsage() {
  usage.clear();
  say($("usage-error"), "");
  call("/api/v1/usage").then(
    ({ known, limits }) => {
      const unknown = gettext("The counts cannot be read at the moment, so nothing is limited.");
      say($("usage-note"), known ? (limits.length ? "" : gettext("Nothing is limited.")) : unknown);
      usage.put(limits.map((limit) => ({ id: `${limit.of} ${limit.window}`, ...limit })));
    },
    (problem) => say($("usage-error"), problem.message),
  );
  return () => {};
}

// --- which view ------------------------------------------------------------------------------------------------------

function openForm() {
  closeStage();
  return () => {};
}

function route() {
  const [, kind = "", id = ""] = location.hash.split("/");
  if (kind === "edits" && UUID.test(id)) return { view: "edit", tab: "#/", open: () => openEdit(id) };
  if (kind === "batches" && UUID.test(id)) return { view: "batch", tab: "#/batches", open: () => openBatch(id) };
  if (kind === "batches") return { view: "batches", tab: "#/batches", open: openBatches };
  if (kind === "webhooks") return { view: "webhooks", tab: "#/webhooks", open: openWebhooks };
  if (kind === "tokens") return { view: "tokens", tab: "#/tokens", open: openTokens };
  if (kind === "usage") return { view: "usage", tab: "#/usage", open: openUsage };
  if (kind === "history") return { view: "history", tab: "#/history", open: openHistory };
  return { view: "edit", tab: "#/", open: openForm };
}

let close = () => {};

function open() {
  close();
  const { view, tab, open: opening } = route();
  for (const section of document.querySelectorAll("[data-view]")) {
    section.hidden = section.dataset.view !== view;
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  close = opening();
  document.title = `${document.querySelector("[data-view]:not([hidden]) h1").textContent} – Image Editor`;
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address is that of no view
  $("main").focus();
});
window.addEventListener("hashchange", open);
open();
