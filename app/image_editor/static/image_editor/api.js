// The API: requests, problems, and the life of an edit or a batch.

import { explained, fill, $ } from "./parts.js";

const csrf = $("sign-out").elements.csrfmiddlewaretoken.value;
const PATIENCE = 6000; // milliseconds until a stream that does not come back is given up; it comes back after 2 s
export const FINAL = new Set(["succeeded", "failed", "cancelled", "finished", "delivered", "dead", "active", "expired"]);

export class Problem extends Error {
  constructor({ status = 0, code = "", detail, errors = [] }, retryAfter = 0) {
    super(explained({ code, detail }));
    Object.assign(this, { status, code, errors, retryAfter });
  }
}

export const path = (kind, id) => `/api/v1/${kind}/${id}`;

/** The document at a path of the API. A body, or `json`, is posted. Throws Problem; its status is 0 without an answer. */
export async function call(address, { json, body, headers, signal, method } = {}) {
  const type = json ? { "Content-Type": "application/json" } : {};
  const options = {
    method: method ?? (json || body ? "POST" : "GET"),
    body: json ? JSON.stringify(json) : body,
    headers: { Accept: "application/json", "X-CSRFToken": csrf, ...type, ...headers },
    signal,
  };
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem({ detail: gettext("The server cannot be reached. Check your connection and try again.") });
  }
  const found = await answer.json().catch(() => ({}));
  signal?.throwIfAborted(); // a body that was cut off is no document
  if (answer.ok) return found;
  if (answer.status === 401) throw new Problem({ status: 401, detail: gettext("You are signed out. Reload the page to sign in again.") });
  const unknown = fill(gettext("The server answered %(status)s. Try again in a moment."), answer);
  const problem = { ...found, status: answer.status, detail: found.detail || unknown };
  throw new Problem(problem, Number(answer.headers.get("Retry-After")) || 0);
}

/** Shows an edit or a batch each time that it has changed, until it has ended. Returns a function that stops.
 *
 * The API's events tell of the changes. If a stream is refused or broken, the document is polled.
 */
export function watch(kind, id, show, lost) {
  const address = path(kind, id);
  const controller = new AbortController();
  const { signal } = controller;
  let stream = null;
  let patience = 0;

  function hear(found) {
    if (signal.aborted) return;
    show(found);
    if (FINAL.has(found.status)) controller.abort();
  }

  function listen() {
    stream = new EventSource(`${address}/events`);
    stream.addEventListener("open", calm);
    stream.addEventListener("edit", ({ data }) => hear(JSON.parse(data)));
    // The event of a batch comes without the items.
    stream.addEventListener("batch", () => call(address, { signal }).then(hear, (problem) => signal.aborted || lost(problem)));
    stream.addEventListener("error", () => {
      if (stream.readyState === EventSource.CLOSED) giveUp();
      else patience ||= setTimeout(giveUp, PATIENCE);
    });
  }

  function calm() {
    clearTimeout(patience);
    patience = 0;
  }

  function close() {
    calm();
    stream.close();
  }

  function giveUp() {
    close();
    document.removeEventListener("visibilitychange", look);
    poll(address, hear, lost, signal);
  }

  function look() {
    close();
    if (!document.hidden) listen(); // nobody holds a place at the server without looking
  }

  document.addEventListener("visibilitychange", look, { signal });
  signal.addEventListener("abort", close);
  listen();
  return () => controller.abort();
}

/** Reads a document again and again: every second while it moves, less often while it does not. */
function poll(address, show, lost, signal) {
  let timer = 0;
  let delay = 400;
  let before = "";

  async function look() {
    timer = 0;
    if (document.hidden) return; // `visibilitychange` goes on
    try {
      const found = await call(address, { signal });
      const now = `${found.status} ${found.percent} ${found.finished}`;
      delay = now === before ? Math.min(Math.max(delay, 1000) * 1.2, 5000) : 1000;
      before = now;
      show(found);
    } catch (problem) {
      if (signal.aborted) return;
      lost(problem);
      if ([401, 403, 404].includes(problem.status)) return;
      delay = Math.max(Math.min(delay * 2, 15_000), 1000 * (problem.retryAfter ?? 0));
    }
    if (!signal.aborted) timer = setTimeout(look, delay);
  }

  document.addEventListener("visibilitychange", () => document.hidden || timer || look(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  timer = setTimeout(look, 0);
}

/** A key that stays the same when the same form is sent again, so that a lost answer never leads to a second edit. */
export function keeper() {
  let key = "";
  let sent = [];
  return {
    for(...fields) {
      const same = fields.length === sent.length && fields.every((field, index) => field === sent[index]);
      if (!same) [key, sent] = [crypto.randomUUID(), fields];
      return key;
    },
    forget: () => (sent = []),
  };
}
