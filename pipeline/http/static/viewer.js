// The viewer of one image: before and after, cutout, mask, source.

import { urls } from "./api.js";

const SIDE = 1600;
const byId = (id) => document.getElementById(id);
const dialog = byId("viewer");
const cutout = dialog.querySelector(".cutout");
const source = dialog.querySelector(".source");

let shown = { job: "", items: [], at: 0 };

function render() {
  const { job, items, at } = shown;
  const item = items[at];
  const mask = dialog.dataset.view === "mask";
  cutout.src = urls.preview(job, item.index, mask ? "mask" : "result", SIDE);
  cutout.classList.toggle("mask", mask);
  source.src = urls.preview(job, item.index, "source", SIDE);
  byId("viewer-name").textContent = [item.source, ...item.flags].join(" · ");
  byId("one").href = urls.result(job, item.index);
  byId("previous").disabled = at === 0;
  byId("next").disabled = at === items.length - 1;
}

function setView(view) {
  dialog.dataset.view = view;
  for (const button of dialog.querySelectorAll("[data-view-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.viewChoice === view));
  }
  if (dialog.open) render();
}

function step(offset) {
  const at = shown.at + offset;
  if (at < 0 || at >= shown.items.length) return;
  shown.at = at;
  render();
}

// Opens at `items[at]` of `job`; all items are done.
export function openViewer(job, items, at) {
  shown = { job, items, at };
  render();
  dialog.showModal();
  byId("split").focus();
}

byId("split").addEventListener("input", (event) => {
  event.target.parentElement.style.setProperty("--split", `${event.target.value}%`);
});
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  const view = event.target.closest("[data-view-choice]")?.dataset.viewChoice;
  if (view) setView(view);
  if (event.target === dialog) dialog.close();
});
setView("split");
