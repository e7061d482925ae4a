// Lists: what the API lists, page by page, and lists whose items a person puts in order.

import { FINAL, call } from "./api.js";
import { $, announce, fill, say } from "./parts.js";

/** A list that finds its rows by id, so that a row is changed in place and the focus stays where it is. */
export function rows(list, template, fillRow) {
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
        fillRow(row, item);
      }
      atTop ? list.prepend(...fresh) : list.append(...fresh);
      return fresh;
    },
  };
}

/** Pages of a list. The first page is polled while something on it is unfinished. `address` is asked when the view opens. */
export function pages(address, name, template, fillRow) {
  const list = rows($(name), $(template), fillRow);
  const older = $(`${name}-older`);
  let next = null;
  let controller = new AbortController(); // of the view as it was opened last: an answer to an earlier one comes too late

  async function load(from, atTop = false) {
    const page = await call(from, { signal: controller.signal });
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
    const { signal } = controller;
    try {
      const { page, fresh } = await load(next);
      offer(page);
      fresh[0]?.querySelector("a, button").focus();
    } catch (problem) {
      if (!signal.aborted) say($(`${name}-error`), problem.message);
    }
  });

  return function open() {
    const first = address();
    const opened = (controller = new AbortController());
    let timer = 0;
    list.clear();
    $(`${name}-empty`).hidden = true; // until the first answer
    async function look(again) {
      let moving = true;
      if (!document.hidden) {
        try {
          const { page } = await load(first, again);
          if (!again) offer(page);
          moving = page.items.some(({ status, state }) => !FINAL.has(status ?? state));
          again = true;
        } catch (problem) {
          if (opened.signal.aborted) return;
          say($(`${name}-error`), problem.message);
          if ([401, 422].includes(problem.status)) return;
        }
      }
      if (moving) timer = setTimeout(look, 3000, again);
    }
    look(false);
    return () => {
      opened.abort();
      clearTimeout(timer);
    };
  };
}

/** Removes a row. The focus goes to its neighbour, or to `otherwise` if it was the only one. */
export function takeAway(row, otherwise, within = "a, button") {
  const neighbour = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  (neighbour?.querySelector(within) ?? otherwise).focus();
}

/** A list whose items are dragged by their handle, or moved and removed by their buttons.
 *
 * `changed` is called after each change. `otherwise` gets the focus when the last item is removed.
 * Returns a function that adds an item and gives it a name.
 */
export function sortable(list, changed, otherwise) {
  const labels = { up: gettext("Move %(name)s up"), down: gettext("Move %(name)s down"), away: gettext("Remove %(name)s") };
  const place = gettext("%(name)s is now number %(place)s of %(total)s.");
  const nameOf = (item) => item.querySelector(".name").textContent;
  let dragged = null;

  list.addEventListener("click", ({ target }) => {
    const { move } = target.dataset;
    if (!move) return;
    const item = target.closest("li");
    if (move === "away") {
      takeAway(item, otherwise, "[data-move=away]");
    } else {
      if (move === "up") item.previousElementSibling?.before(item);
      else item.nextElementSibling?.after(item);
      target.focus(); // an item that moves loses it
      announce(fill(place, { name: nameOf(item), place: [...list.children].indexOf(item) + 1, total: list.childElementCount }));
    }
    changed();
  });

  list.addEventListener("pointerdown", (event) => {
    if (event.button || !event.target.closest(".grip, .thumb")) return;
    event.preventDefault();
    dragged = event.target.closest("li");
    dragged.classList.add("dragged");
    list.setPointerCapture(event.pointerId);
  });
  list.addEventListener("pointermove", ({ clientY }) => {
    if (!dragged) return;
    const below = [...list.children].find((item) => {
      const { top, height } = item.getBoundingClientRect();
      return item !== dragged && clientY < top + height / 2;
    });
    if (dragged.nextElementSibling !== (below ?? null)) list.insertBefore(dragged, below ?? null);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    list.addEventListener(name, () => {
      if (!dragged) return;
      dragged.classList.remove("dragged");
      dragged = null;
      changed();
    });
  }

  return function add(name) {
    const item = $("item-row").content.firstElementChild.cloneNode(true);
    item.querySelector(".name").textContent = name;
    for (const button of item.querySelectorAll("[data-move]")) {
      button.setAttribute("aria-label", fill(labels[button.dataset.move], { name }));
    }
    list.append(item);
    return item;
  };
}
