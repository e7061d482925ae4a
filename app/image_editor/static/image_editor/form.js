// The form: images, what should be done with them, and how they are sent.

import { Problem, call, keeper } from "./api.js";
import { sortable } from "./lists.js";
import { $, complain, fill, onSubmit, say, sentence, size, submitting } from "./parts.js";
import { expect, preview } from "./stage.js";
import { assistant } from "./steps.js";

const IMAGES_MAX = 100; // of a batch
const FORMATS = ["jpeg", "png", "webp"];

const form = $("edit-form");
const picture = $("picture");
const list = $("images");
const fields = { picture, urls: $("urls"), prompt: $("prompt") };
const key = keeper();
const uploads = new WeakMap(); // the ids of files that were uploaded for a batch
const { changed, instructions, isEmpty, messageOf } = assistant(facts);

// --- the images ------------------------------------------------------------------------------------------------------

const add = sortable(list, refresh, picture);
const files = () => [...list.children].map(({ file }) => file);
const urls = () => fields.urls.value.split("\n").map((line) => line.trim()).filter(Boolean);
const bytesMax = () => Number(form.dataset.maxBytes);

/** Whether the images can be sent in one request. Others are uploaded one by one, which counts as an edit each. */
function fitOneForm(chosen, addresses) {
  const bytes = chosen.reduce((sum, file) => sum + file.size, 0);
  return !addresses.length && (chosen.length === 1 || bytes <= bytesMax());
}

function facts() {
  const [chosen, addresses] = [files(), urls()];
  const count = chosen.length + addresses.length;
  const { naturalWidth: width, naturalHeight: height } = list.querySelector("img") ?? {};
  const format = chosen[0]?.type.replace("image/", "");
  return {
    image: width && FORMATS.includes(format) ? { format, width, height } : undefined,
    edits: Math.max(count, 1) + (count < 2 || fitOneForm(chosen, addresses) ? 0 : chosen.length),
  };
}

function take(chosen) {
  for (const file of chosen) {
    const item = add(file.name);
    item.file = file;
    item.querySelector(".meta").textContent = size(file.size);
    item.querySelector(".thumb").hidden = false;
    const image = item.querySelector("img");
    image.onload = image.onerror = () => {
      URL.revokeObjectURL(image.src);
      changed(); // its size decides what the edit costs
    };
    image.src = URL.createObjectURL(file);
  }
  refresh();
}

function refresh() {
  const problem = tooLarge(files());
  say($("picture-error"), problem);
  picture.setAttribute("aria-invalid", String(Boolean(problem)));
  $("remove-all").hidden = list.childElementCount < 2;
  preview(files()[0]);
  changed();
}

function tooLarge(chosen) {
  const text = gettext("%(name)s has %(size)s. Choose a file of at most %(most)s.");
  const large = chosen.filter((file) => file.size > bytesMax());
  return large.map((file) => fill(text, { name: file.name, size: size(file.size), most: size(bytesMax()) })).join("\n");
}

picture.addEventListener("change", () => {
  take(picture.files);
  picture.value = ""; // so that the same file can be chosen again
});
$("remove-all").addEventListener("click", () => {
  list.replaceChildren();
  refresh();
  picture.focus();
});
fields.urls.addEventListener("input", changed);

const images = (transfer) => [...transfer.files].filter(({ type }) => type.startsWith("image/"));

// A photo dropped beside the zone must not make the browser leave the page.
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("drop").classList.toggle("over", name.endsWith("over") || name.endsWith("enter"));
    const dropped = name === "drop" ? images(event.dataTransfer) : [];
    if (!dropped.length) return;
    take(dropped);
    if (form.parentElement.hidden) location.hash = "#/";
  });
}
document.addEventListener("paste", (event) => {
  if (form.parentElement.hidden) return;
  const pasted = images(event.clipboardData);
  const text = event.clipboardData.getData("text").trim();
  if (pasted.length) {
    take(pasted);
  } else if (!event.target.matches("input, textarea") && /^https?:\/\/\S+$/.test(text)) {
    fields.urls.value = [...urls(), text].join("\n");
    fields.urls.focus();
    changed();
  } else {
    return;
  }
  event.preventDefault();
});

// --- sending ---------------------------------------------------------------------------------------------------------

onSubmit(form, () => {
  const [chosen, addresses] = [files(), urls()];
  const count = chosen.length + addresses.length;
  const tooMany = gettext("These are %(count)s images. Send at most %(most)s at a time.");
  const missing = { picture: tooLarge(chosen) };
  say($("edit-form-error"), "");
  if (!count) missing.picture = gettext("Choose photos, or give the address of an image.");
  if (count > IMAGES_MAX) missing.picture = fill(tooMany, { count, most: IMAGES_MAX });
  if (isEmpty()) missing.prompt = gettext("Say what should be done, or choose a step.");
  complain(fields, missing);
  if (Object.values(missing).some(Boolean)) return;

  submitting(form, chosen.length ? gettext("Uploading…") : gettext("Sending…"), async (relabel) => {
    try {
      const what = await instructions();
      const sent = await send(chosen, addresses, what, relabel);
      key.forget();
      if (count === 1) expect(sent);
      location.hash = count === 1 ? `#/edits/${sent.id}` : `#/batches/${sent.id}`;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.status >= 400 && problem.status < 500) key.forget();
      if (problem.code === "upload_unknown") chosen.forEach((file) => uploads.delete(file));
      report(problem, chosen, addresses);
    }
  });
});

function formOf(chosen, what) {
  const body = new FormData();
  for (const file of chosen) body.append("image", file);
  for (const [name, value] of Object.entries(what)) body.append(name, name === "prompt" ? value : JSON.stringify(value));
  return body;
}

/** One image becomes an edit, and several become a batch in their order. Returns the document of either. */
async function send(chosen, addresses, what, relabel) {
  const headers = { "Idempotency-Key": key.for(...chosen, ...addresses, JSON.stringify(what)) };
  const total = chosen.length + addresses.length;
  const address = total === 1 ? "/api/v1/edits" : "/api/v1/batches";
  if (fitOneForm(chosen, addresses)) return call(address, { headers, body: formOf(chosen, what) });
  if (total === 1) return call(address, { headers, json: { image_url: addresses[0], ...what } });
  const items = [];
  for (const [index, file] of chosen.entries()) {
    relabel(fill(gettext("Uploading %(place)s of %(total)s…"), { place: index + 1, total: chosen.length }));
    items.push({ upload_id: await upload(file, index), ...what });
  }
  items.push(...addresses.map((url) => ({ image_url: url, ...what })));
  return call(address, { headers, json: { items } });
}

/** The id of a file that is uploaded once, also if the batch is sent again. */
async function upload(file, index) {
  if (!uploads.has(file)) {
    try {
      const { id } = await call("/api/v1/uploads", { body: formOf([file], {}) });
      uploads.set(file, id);
    } catch (problem) {
      throw Object.assign(problem, { index });
    }
  }
  return uploads.get(file);
}

// --- problems --------------------------------------------------------------------------------------------------------

/** A message without the name of the API's field: it stands below the field. */
export const plain = (message) => sentence(message.replace(/^(image_url: |url: |change these fields: |请修改这些字段：)/i, ""));

/** The field that a problem is about. `index` is that of its image. */
function fieldOf(code, index, chosen) {
  if (code.startsWith("prompt") || code.startsWith("operation")) return "prompt";
  if (code.startsWith("image_url")) return "urls";
  if (/^(image|too_large|too_slow|upload)/.test(code)) return index < chosen.length ? "picture" : "urls";
  return "";
}

/** Selects the part of the prompt that a message quotes. */
function mark(message = "") {
  const part = /“([^”]+)”/.exec(message)?.[1];
  const at = part ? fields.prompt.value.indexOf(part) : -1;
  if (at >= 0) fields.prompt.setSelectionRange(at, at + part.length);
}

/** Shows each problem below its field, or else below the form. With several images, it names the image. */
function report(problem, chosen, addresses) {
  const names = [...chosen.map(({ name }) => name), ...addresses];
  const code = problem.code === "invalid" ? (problem.errors[0]?.field ?? "").replace(/^items\.\d+\./, "") : problem.code;
  const one = { code, index: problem.index ?? 0, message: messageOf(problem) };
  const messages = {};
  for (const { code, index, message } of problem.code === "items_invalid" ? problem.errors : [one]) {
    const field = fieldOf(code, index, chosen);
    const text = names.length > 1 && ["picture", "urls"].includes(field) ? `${names[index]}: ${plain(message)}` : plain(message);
    const former = messages[field]?.split("\n") ?? [];
    if (!former.includes(text)) messages[field] = [...former, text].join("\n"); // all images have the same prompt
  }
  complain(fields, messages);
  mark(messages.prompt);
  say($("edit-form-error"), messages[""] ?? "");
}
