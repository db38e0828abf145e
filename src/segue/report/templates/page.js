"use strict";
document.documentElement.classList.add("scripted");

// ---- sliders. Pictures are in the page once: a slider shows the same data again.
const wipes = [...document.querySelectorAll(".wipe")].map((wipe) => {
  const shown = [...wipe.closest(".panel").querySelectorAll(".pictures img")];
  const captions = [...wipe.closest(".panel").querySelectorAll("figcaption")];
  const [below, above] = wipe.querySelectorAll(".stage img");
  const [left, right] = wipe.querySelectorAll("p span");
  const range = wipe.querySelector("input");
  const move = () => {
    wipe.querySelector(".stage").style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} per cent`);
  };
  range.addEventListener("input", move);
  move();
  return (first, second) => {
    above.src = shown[first].src;
    below.src = shown[second].src;
    left.textContent = captions[first].textContent;
    right.textContent = captions[second].textContent;
    const told = `share of ${left.textContent} shown over ${right.textContent}`;
    range.setAttribute("aria-label", `${wipe.dataset.name}: ${told}`);
  };
});
const sides = [...document.querySelectorAll("[data-side]")];
const wipe = () => {
  const [first, second] = sides.map((side) => Number(side.value));
  for (const between of wipes) between(first, second);
};
if (sides.length) wipe();
for (const side of sides) side.addEventListener("change", wipe);

// ---- pages of panels
const panels = [...document.querySelectorAll(".panel")];
const pagers = [...document.querySelectorAll(".pager")];
const perPage = Number(document.querySelector(".panels")?.dataset.perPage);
let first = 0;
const turn = (to) => {
  first = to;
  const end = Math.min(first + perPage, panels.length);
  panels.forEach((panel, index) => panel.classList.toggle("away", index < first || index >= end));
  for (const pager of pagers) {
    const [previous, next] = pager.querySelectorAll("button");
    // Not `disabled`: a button that is pressed must not lose the focus.
    previous.setAttribute("aria-disabled", first === 0);
    next.setAttribute("aria-disabled", end === panels.length);
    pager.querySelector("span").textContent = `${first + 1} to ${end} of ${panels.length}`;
  }
};
if (panels.length > perPage) {
  for (const pager of pagers) {
    pager.hidden = false;
    pager.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || button.getAttribute("aria-disabled") === "true") return;
      turn(first + Number(button.dataset.step) * perPage);
      if (pager !== pagers[0]) document.querySelector("#pictures").scrollIntoView();
    });
  }
  turn(0);
}

// ---- copying
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
};
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const told = (await copy(button.dataset.copy)) ? "Copied" : "Your browser does not allow it";
    button.parentElement.querySelector("[role=status]").textContent = told;
    button.focus();
  });
}

// ---- sorting
for (const table of document.querySelectorAll("table.iou")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  heads.forEach((head, column) => {
    // Names go up first, numbers down; the third press restores the order of the data set.
    const orders = column === 0 ? ["ascending", "descending"] : ["descending", "ascending"];
    head.querySelector("button").addEventListener("click", () => {
      const order = orders[orders.indexOf(head.getAttribute("aria-sort")) + 1] ?? "none";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      const value = (row) => row.cells[column].dataset.value;
      const present = original.filter((row) => value(row) !== undefined);
      const absent = original.filter((row) => value(row) === undefined);
      present.sort((a, b) => compare(value(a), value(b)) * (order === "ascending" ? 1 : -1));
      body.append(...(order === "none" ? original : [...present, ...absent]));
    });
  });
}
