"use strict";

const MOST = 2048; // pixels of a side that are drawn; what is downloaded is whole
const at = (id) => document.getElementById(id);
const stage = at("stage");
const percent = (share) => (0 < share && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

let served; // what GET model tells
let shown = null; // the last answer and its image; of each side ids as drawn, shares, the PNG
let asked = null; // the request that runs
let last = null; // the last file, to try again
const hidden = new Set(); // train ids
let highlighted = null; // a train id

// ---- asking

async function start() {
  try {
    served = await (await fetch("model")).json();
  } catch {
    return fail("The server does not answer; is it still running?");
  }
  document.title = `${served.name} · Segue`;
  const name = document.createElement("strong");
  name.textContent = served.name;
  const count = `, ${served.classes.length} classes of ${served.label_space}`;
  const compared = document.createElement("strong");
  compared.textContent = served.before ?? "";
  at("lead").replaceChildren(name, ...(served.before ? [" compared with ", compared] : []), count);
  at("limits").textContent =
    `${served.formats_named}, up to ${served.megabytes} MB and ${served.megapixels} megapixels`;
  const sizes = served.networks.map(({ policy, size: [width, height] }) =>
    `${policy === "sliding" ? "windows of " : ""}${width} × ${height}`);
  at("facts").textContent = `The model looks at ${sizes.join(" and ")}, on ${served.device}.`;
  at("file").accept = served.formats.join(",");
  caption("left", served.before ? "before" : "image", served.before);
  caption("right", served.before ? "after" : "labels", served.name);
  at("wipe").setAttribute(
    "aria-label",
    served.before ? "share of before shown over after" : "share of the image shown over the labels",
  );
  list();
}

function caption(id, side, name) {
  const more = document.createElement("b");
  more.textContent = name ? `: ${name}` : "";
  at(id).replaceChildren(side, more);
}

async function predict(file) {
  asked?.abort();
  const control = (asked = new AbortController());
  last = file;
  at("problem").hidden = true;
  try {
    if (file.size > served.megabytes * 1e6) {
      throw new Error(`${file.name} is larger than ${served.megabytes} MB; choose a smaller image`);
    }
    const picture = await opened(file);
    if (control.signal.aborted) return;
    draw(picture);
    at("drop").setAttribute("aria-busy", "true");
    at("status").textContent = "Predicting …";
    const answer = await answered(file, control.signal);
    const [after, before] = await Promise.all([side(answer.after), side(answer.before)]);
    if (control.signal.aborted) return;
    shown = { ...answer, picture, after, before, name: file.name };
    show();
  } catch (error) {
    if (!control.signal.aborted) fail(error.message, error.canRetry);
  } finally {
    if (asked === control) {
      asked = null;
      at("drop").removeAttribute("aria-busy");
    }
  }
}

async function opened(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no image that is known here; choose ${served.formats_named}`);
  }
  if (picture.width * picture.height > served.megapixels * 1e6) {
    throw new Error(`${file.name} has more than ${served.megapixels} megapixels`);
  }
  return picture;
}

async function answered(file, signal) {
  const form = new FormData();
  form.append("image", file, file.name);
  const retry = (told) => Object.assign(new Error(told), { canRetry: true });
  let reply;
  try {
    reply = await fetch("predict", { method: "POST", body: form, signal });
  } catch {
    throw retry("The server does not answer; is it still running?");
  }
  const answer = await reply.json().catch(() => ({}));
  if (reply.ok) return answer;
  const told = answer.error ?? `The server says ${reply.status}.`;
  throw reply.status < 500 ? new Error(told) : retry(told);
}

function fail(told, canRetry = false) {
  at("problem").querySelector("span").textContent = told;
  at("again").hidden = !canRetry;
  at("problem").hidden = false;
  at("status").textContent = "";
  if (shown) {
    draw(shown.picture);
    paint();
    report();
  } else {
    at("invite").hidden = false;
    stage.hidden = true;
  }
}

// ---- showing

/** The image alone, while the answer is waited for. */
function draw(picture) {
  const scale = Math.min(1, MOST / Math.max(picture.width, picture.height));
  const scaled = (pixels) => Math.max(1, Math.round(pixels * scale));
  const size = { width: scaled(picture.width), height: scaled(picture.height) };
  for (const id of ["picture", "after", "before"]) Object.assign(at(id), size);
  at("picture").getContext("2d").drawImage(picture, 0, 0, size.width, size.height);
  stage.style.setProperty("--ratio", picture.width / picture.height);
  at("invite").hidden = true;
  stage.hidden = false;
}

function show() {
  at("tools").hidden = false;
  const link = at("download");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(shown.after.png);
  link.download = `${shown.name.replace(/\.[^.]*$/, "")}_label.png`;
  at("drop").removeAttribute("aria-busy");
  list();
  paint();
  report();
  // The button that had the focus is gone.
  const active = document.activeElement;
  if (active === document.body || at("invite").contains(active)) {
    at("wipe").focus({ focusVisible: false, preventScroll: true });
  }
}

/** One model's labels: as drawn, of the shown size, and whole. */
async function side(told) {
  if (!told) return null;
  const bytes = Uint8Array.from(atob(told.labels), (one) => one.charCodeAt(0));
  const png = new Blob([bytes], { type: "image/png" });
  const exact = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const picture = await createImageBitmap(png, exact);
  const { width, height } = at("picture");
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const ids = new Uint8Array(width * height);
  for (let pixel = 0; pixel < ids.length; pixel++) ids[pixel] = data[4 * pixel];
  return { ids, png, shares: told.shares };
}

function paint() {
  if (!shown) return;
  const table = new Uint32Array(256);
  served.colours.forEach(([red, green, blue], id) => {
    const alpha = hidden.has(id) ? 0 : highlighted === null || highlighted === id ? 255 : 40;
    table[id] = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
  for (const name of ["after", "before"]) {
    const canvas = at(name);
    canvas.hidden = !shown[name];
    if (!shown[name]) continue;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    const words = new Uint32Array(pixels.data.buffer);
    const { ids, shares } = shown[name];
    for (let pixel = 0; pixel < ids.length; pixel++) words[pixel] = table[ids[pixel]];
    context.putImageData(pixels, 0, 0);
    const most = Object.entries(shares).sort((a, b) => b[1] - a[1]).slice(0, 3);
    const told = most.map(([one, share]) => `${one} ${percent(share)}`).join(", ");
    canvas.setAttribute("aria-label", `labels ${name}: ${told}`);
  }
}

function report() {
  const parts = [shown.name, `${shown.width} × ${shown.height}`, `${shown.seconds.toFixed(2)} s`];
  if (shown.changed !== null) parts.push(`${percent(shown.changed)} of pixels differ`);
  at("status").textContent = parts.filter(Boolean).join(" · ");
}

// ---- classes

function list() {
  const after = shown?.after.shares ?? {};
  const before = shown?.before?.shares ?? {};
  const share = (name) => Math.max(after[name] ?? 0, before[name] ?? 0);
  const ids = served.classes.map((_, id) => id);
  const present = shown ? ids.filter((id) => share(served.classes[id]) > 0) : ids;
  present.sort((a, b) => (after[served.classes[b]] ?? 0) - (after[served.classes[a]] ?? 0) || a - b);
  const most = Math.max(1e-9, ...present.map((id) => share(served.classes[id])));
  at("legend").replaceChildren(...present.map((id) => row(id, after, before, most)));
  const others = ids.filter((id) => !present.includes(id));
  const absent = at("absent");
  absent.hidden = !others.length;
  absent.querySelector("summary").textContent = `${others.length} absent`;
  absent.querySelector("ul").replaceChildren(...others.map((id) => row(id, {}, {}, 1, true)));
  at("columns").hidden = !shown?.before;
}

function row(id, after, before, most, isAbsent = false) {
  const name = served.classes[id];
  const make = (kind, className, text = "") =>
    Object.assign(document.createElement(kind), { className, textContent: text });
  const item = document.createElement("li");
  const [red, green, blue] = served.colours[id];
  item.style.setProperty("--class", `rgb(${red}, ${green}, ${blue})`);
  const isBright = 0.299 * red + 0.587 * green + 0.114 * blue > 140;
  item.style.setProperty("--mark", isBright ? "#000" : "#fff");
  const box = Object.assign(document.createElement("input"), { type: "checkbox" });
  box.checked = !hidden.has(id);
  box.dataset.id = id;
  const label = document.createElement("label");
  label.append(box, make("span", "name", name));
  if (shown && !isAbsent) {
    const bar = make("span", "bar");
    const filled = document.createElement("i");
    filled.style.setProperty("--share", `${(100 * (after[name] ?? 0)) / most}%`);
    bar.append(filled);
    if (shown.before) {
      label.append(make("span", "share", percent(before[name] ?? 0)));
      const mark = document.createElement("b");
      mark.style.setProperty("--share", `${(100 * (before[name] ?? 0)) / most}%`);
      bar.append(mark);
    }
    label.append(make("span", "share now", percent(after[name] ?? 0)), bar);
  }
  box.addEventListener("change", () => {
    hidden[box.checked ? "delete" : "add"](id);
    paint();
  });
  const highlight = (one) => () => {
    highlighted = one;
    paint();
  };
  item.addEventListener("pointerenter", highlight(id));
  item.addEventListener("pointerleave", highlight(null));
  item.append(label);
  return item;
}

function setAll(isShown) {
  for (const box of document.querySelectorAll(".classes input")) {
    box.checked = isShown;
    hidden[isShown ? "delete" : "add"](Number(box.dataset.id));
  }
  paint();
}

// ---- by mouse, touch and keyboard

function wipe() {
  const { value } = at("wipe");
  stage.style.setProperty("--at", `${value}%`);
  at("wipe").setAttribute("aria-valuetext", `${value} per cent`);
  // A name that the edge has passed says nothing any more.
  at("left").hidden = value < 12;
  at("right").hidden = value > 88;
}

function point(event) {
  if (!shown || at("drop").hasAttribute("aria-busy")) return;
  const { left, top, width, height } = stage.getBoundingClientRect();
  const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
  const isInside = x >= 0 && x < 1 && y >= 0 && y < 1;
  const isLeft = 100 * x < Number(at("wipe").value);
  const seen = isLeft ? shown.before : shown.after;
  at("pointed").hidden = !isInside || !seen;
  if (at("pointed").hidden) return;
  const canvas = at("after");
  const id = seen.ids[Math.floor(y * canvas.height) * canvas.width + Math.floor(x * canvas.width)];
  at("pointed").querySelector("span").textContent = served.classes[id];
  at("pointed").style.setProperty("--class", `rgb(${served.colours[id].join(", ")})`);
}

function offer(files) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (!file || !served) return;
  predict(file).then(() => {
    if (files.length > 1 && at("problem").hidden) at("status").textContent += " · one image at a time, the first was taken";
  });
}

for (const button of document.querySelectorAll("[data-choose]")) {
  button.addEventListener("click", () => at("file").click());
}
at("file").addEventListener("change", () => {
  const files = [...at("file").files];
  at("file").value = ""; // the same file may be chosen again
  offer(files);
});
at("again").addEventListener("click", () => (last ? predict(last) : undefined));
at("all").addEventListener("click", () => setAll(true));
at("none").addEventListener("click", () => setAll(false));
at("wipe").addEventListener("input", wipe);
at("opacity").addEventListener("input", () => {
  const { value } = at("opacity");
  stage.style.setProperty("--opacity", value / 100);
  at("opacity-told").textContent = `${value} %`;
});
stage.addEventListener("pointermove", point);
stage.addEventListener("pointerdown", point);
stage.addEventListener("pointerleave", () => (at("pointed").hidden = true));
document.addEventListener("paste", (event) => offer(event.clipboardData.files));

// Files dropped anywhere are taken: beside the frame a browser would leave the page for them.
const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!holdsFiles(event)) return;
  event.preventDefault();
  offer(event.dataTransfer.files);
});

wipe();
start();
