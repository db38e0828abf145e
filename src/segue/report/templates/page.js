"use strict";
document.documentElement.classList.add("scripted");

// The two pictures are in the page once: the slider shows the same data again.
for (const panel of document.querySelectorAll(".panel")) {
  const wipe = panel.querySelector(".wipe");
  if (!wipe) continue;
  const [before, after] = [...panel.querySelectorAll(".pictures img")].slice(-2);
  const [below, above] = wipe.querySelectorAll("img");
  const stage = wipe.querySelector(".stage");
  const range = wipe.querySelector("input");
  below.src = after.src;
  above.src = before.src;
  const move = () => {
    stage.style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} per cent`);
  };
  range.addEventListener("input", move);
  move();
}

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
