// Small parts that all views share.
// `gettext`, `ngettext` and `interpolate` are Django's, from messages.js. The API translates the errors that it answers.

export const $ = (id) => document.getElementById(id);

export const STATUS = {
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

// What to do about an error whose detail has the cause alone.
const REMEDIES = {
  image_url_failed: gettext("Check that everybody can open the address, then edit the image again."),
  image_url_refused: gettext("Give a public address, or choose the file."),
  image_corrupt: gettext("Choose the original file."),
  content_refused: gettext("Change the text or the image."),
  engine_refused: gettext("Change the text or the image."),
  gave_up: gettext("Edit the image again. Tell the operator if this happens twice."),
  not_found: gettext("It may have been deleted. Go back to the list."),
};

// --- texts -----------------------------------------------------------------------------------------------------------

const language = document.documentElement.lang;
const moment = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const amount = new Intl.NumberFormat(language, { maximumFractionDigits: 2 });

export const when = (iso) => moment.format(new Date(iso));
export const number = (value) => amount.format(value);

/** A text of messages.js with values in the place of %(name)s. */
export const fill = (text, values) => interpolate(text, values, true);
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?。！？]$/.test(text) ? "" : gettext("."));

/** What went wrong, and what to do about it. */
export function explained({ code, detail }) {
  const [cause, remedy] = [sentence(detail), REMEDIES[code]];
  return remedy ? fill(gettext("%(cause)s %(remedy)s"), { cause, remedy }) : cause;
}

export function size(bytes) {
  const kilo = bytes / 1024;
  return kilo < 1000 ? `${number(Math.max(1, Math.round(kilo)))} kB` : `${number((kilo / 1024).toFixed(1))} MB`;
}

// --- what the page says ----------------------------------------------------------------------------------------------

/** Has a screen reader say something that the focus does not lead to. */
export function announce(text) {
  const live = $("live");
  live.textContent = live.textContent === text ? `${text}\u00a0` : text; // the same text again is a change, too
}

function show(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

/** Text in an element that is hidden while it has none. An error is announced, once. */
export function say(element, text) {
  if (text && text !== element.textContent && element.matches(".error")) announce(text);
  show(element, text);
}

export function badge(element, status) {
  element.dataset.status = status;
  element.textContent = STATUS[status];
}

// --- forms -----------------------------------------------------------------------------------------------------------

/** Shows each message below its field, announces them, and moves the focus to the first field. */
export function complain(fields, messages) {
  for (const [name, input] of Object.entries(fields)) {
    show($(`${input.id}-error`), messages[name] ?? "");
    input.setAttribute("aria-invalid", String(Boolean(messages[name])));
  }
  const wrong = Object.keys(fields).filter((name) => messages[name]);
  if (!wrong.length) return;
  announce(wrong.map((name) => messages[name]).join(" "));
  fields[wrong[0]].focus();
}

/** Runs a form's request with the button disabled, so that a second press does not send it again.
 *
 * The request may change the label of the button, which tells how far it is.
 */
export async function submitting(form, label, request) {
  const button = form.querySelector("[type=submit]");
  const before = button.textContent;
  const relabel = (text) => (button.textContent = text);
  button.setAttribute("aria-disabled", "true");
  relabel(label);
  try {
    await request(relabel);
  } finally {
    button.removeAttribute("aria-disabled");
    relabel(before);
  }
}

export function onSubmit(form, handler) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!form.querySelector("[type=submit][aria-disabled]")) handler();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}
