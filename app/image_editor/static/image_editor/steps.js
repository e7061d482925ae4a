// What should be done: a text, and steps that are chosen. The API tells at once what it understands.

import { Problem, call } from "./api.js";
import { sortable } from "./lists.js";
import { $, fill, number, say, sentence } from "./parts.js";

const PAUSE = 500; // milliseconds after the last change
const SCHEMA = JSON.parse($("operations").textContent); // of the API: it says which operations there are, and their fields

const NAMES = {
  greyscale: gettext("Greyscale"),
  sepia: gettext("Sepia"),
  invert: gettext("Invert"),
  rotate: gettext("Rotate"),
  flip: gettext("Flip"),
  resize: gettext("Resize"),
  fit: gettext("Fit"),
  scale: gettext("Scale"),
  crop: gettext("Crop"),
  crop_square: gettext("Crop to a square"),
  blur: gettext("Blur"),
  sharpen: gettext("Sharpen"),
  brightness: gettext("Brightness"),
  contrast: gettext("Contrast"),
  saturation: gettext("Saturation"),
  watermark: gettext("Watermark"),
  convert: gettext("Convert"),
};
const FIELDS = {
  degrees: gettext("degrees"),
  direction: gettext("direction"),
  width: gettext("width"),
  height: gettext("height"),
  percent: gettext("per cent"),
  left: gettext("left"),
  top: gettext("top"),
  sigma: gettext("strength"),
  text: gettext("text"),
  format: gettext("format"),
};
const UNITS = { degrees: "°", percent: "%" };
const VALUES = { horizontal: gettext("left and right"), vertical: gettext("top and bottom") };
// What a new step begins with, if the API has no value for it.
const START = {
  rotate: { degrees: 90 },
  resize: { width: 800 },
  fit: { width: 800, height: 800 },
  scale: { percent: 50 },
  crop: { width: 400, height: 400 },
  brightness: { percent: 20 },
  contrast: { percent: 20 },
  saturation: { percent: 20 },
  watermark: { text: gettext("Sample") },
};

const named = (op) => NAMES[op] ?? op;

/** The operations of the API: their names, each with its fields. */
const operations = new Map(
  SCHEMA.oneOf.map(({ $ref }) => {
    const { op, ...fields } = SCHEMA.$defs[$ref.split("/").at(-1)].properties;
    return [op.const, Object.entries(fields).map(([name, field]) => ({ name, ...field, ...field.anyOf?.[0] }))];
  }),
);

/** An operation in words. */
function inWords({ op, ...fields }) {
  const values = Object.entries(fields).map(([name, value]) => {
    if (name === "text") return fill(gettext("“%(text)s”"), { text: value });
    if (name in UNITS) return number(value) + UNITS[name];
    return typeof value === "number" ? `${FIELDS[name] ?? name} ${number(value)}` : (VALUES[value] ?? value);
  });
  return [named(op), ...values].join(" ");
}

function input({ name, type, enum: choices, minimum, maximum, maxLength }) {
  const field = document.createElement(choices ? "select" : "input");
  field.name = name;
  if (choices) field.append(...choices.map((value) => new Option(VALUES[value] ?? value, value)));
  else if (type === "string") field.maxLength = maxLength;
  else Object.assign(field, { type: "number", min: minimum, max: maximum, step: type === "integer" ? 1 : "any" });
  return field;
}

/** The assistant of a form. `facts` tells the first image and how many edits the form makes. */
export function assistant(facts) {
  const prompt = $("prompt");
  const chips = $("chips");
  const list = $("steps");
  const understood = $("understood");
  let timer = 0;
  let controller = new AbortController();

  function changed() {
    clearTimeout(timer);
    controller.abort();
    say(understood, isEmpty() ? "" : gettext("Checking…")); // what it said was about the former text
    timer = setTimeout(ask, PAUSE);
  }

  const add = sortable(list, changed, prompt);

  for (const op of operations.keys()) {
    const chip = document.createElement("button");
    Object.assign(chip, { type: "button", textContent: named(op) });
    chip.dataset.op = op;
    chip.addEventListener("click", () => {
      addStep(op);
      changed();
    });
    chips.append(chip);
  }

  function addStep(op) {
    const step = add(named(op));
    step.dataset.op = op;
    for (const field of operations.get(op)) {
      const label = document.createElement("label");
      const value = input(field);
      const start = START[op]?.[field.name] ?? field.default;
      if (start !== undefined && start !== null) value.value = start;
      label.append(FIELDS[field.name] ?? field.name, " ", value);
      step.querySelector(".meta").append(label);
    }
  }

  /** The chosen steps as the API takes them. A field that is empty is left out. */
  function steps() {
    return [...list.children].map((step) => {
      const fields = [...step.querySelectorAll("input, select")].filter(({ value }) => value !== "");
      const values = fields.map(({ name, type, value }) => [name, type === "number" ? Number(value) : value]);
      return { op: step.dataset.op, ...Object.fromEntries(values) };
    });
  }

  prompt.addEventListener("input", changed);
  list.addEventListener("input", changed);

  const dryRun = (json, signal) => call("/api/v1/edits/dry_run", { json, signal });

  /** What the API is asked for: a prompt or operations. A text with steps becomes one prompt. */
  async function instructions(signal) {
    const text = prompt.value.trim().replace(/[,，、;；]$/, "");
    const chosen = steps();
    if (!chosen.length) return { prompt: text };
    if (!text) return { operations: chosen };
    const same = await dryRun({ operations: chosen }, signal);
    return { prompt: `${text}, ${same.prompt}` };
  }

  const isEmpty = () => !prompt.value.trim() && !list.childElementCount;

  async function ask() {
    const { signal } = (controller = new AbortController());
    if (isEmpty()) return say(understood, "");
    try {
      const { image, edits } = facts();
      const found = await dryRun({ ...(await instructions(signal)), image }, signal);
      say(understood, preview(found, edits));
    } catch (problem) {
      if (signal.aborted || !(problem instanceof Problem)) return;
      if (problem.status === 429) {
        say(understood, gettext("The preview pauses for a moment."));
        timer = setTimeout(ask, 1000 * problem.retryAfter);
      } else {
        say(understood, messageOf(problem));
      }
    }
  }

  function preview({ operations: found, result, cost }, edits) {
    const unknown = gettext("What the text means is decided when the image is edited.");
    const words = found && fill(gettext("Understood as: %(steps)s."), { steps: found.map(inWords).join(" → ") });
    const lines = [words ?? unknown];
    if (result.width) {
      const size = { width: number(result.width), height: number(result.height), format: result.format.toUpperCase() };
      lines.push(fill(gettext("Result: %(width)s × %(height)s pixels, %(format)s."), size));
    }
    const counted = { count: number(cost.edits * edits), seconds: number(cost.seconds ?? 0) };
    lines.push(fill(ngettext("Counts as %(count)s edit.", "Counts as %(count)s edits.", cost.edits * edits), counted));
    if (cost.seconds) lines.push(fill(gettext("Takes about %(seconds)s s of computing for an image."), counted));
    return lines.join("\n");
  }

  /** A message that names the step instead of the API's field. */
  function messageOf(problem) {
    const { field = "", message } = problem.errors[0] ?? {};
    const at = /^(?:items\.\d+\.)?operations\.(\d+)/.exec(field);
    return at ? `${named(steps()[at[1]]?.op)}: ${sentence(message)}` : problem.message;
  }

  return { changed, instructions, isEmpty, messageOf };
}
