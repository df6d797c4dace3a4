// One image large: before and after, cutout, mask, source.

import { place } from "./api.js";

const SIDE = 1600;
const by = (id) => document.getElementById(id);
const dialog = by("viewer");
const cutout = dialog.querySelector(".cutout");
const source = dialog.querySelector(".source");

let shown = { job: "", items: [], at: 0 };

function picture() {
  const { job, items, at } = shown;
  const item = items[at];
  const mask = dialog.dataset.view === "mask";
  cutout.src = place.preview(job, item.index, mask ? "mask" : "result", SIDE);
  cutout.classList.toggle("mask", mask);
  source.src = place.preview(job, item.index, "source", SIDE);
  by("viewer-name").textContent = [item.source, ...item.flags].join(" · ");
  by("one").href = place.result(job, item.index);
  by("previous").disabled = at === 0;
  by("next").disabled = at === items.length - 1;
}

function choose(view) {
  dialog.dataset.view = view;
  for (const button of dialog.querySelectorAll("[data-view-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.viewChoice === view));
  }
  if (dialog.open) picture();
}

function step(by) {
  const at = shown.at + by;
  if (at < 0 || at >= shown.items.length) return;
  shown.at = at;
  picture();
}

// Shows `items[at]` of `job`; all of them are done.
export function view(job, items, at) {
  shown = { job, items, at };
  picture();
  dialog.showModal();
  by("split").focus();
}

by("split").addEventListener("input", (event) => {
  event.target.parentElement.style.setProperty("--split", `${event.target.value}%`);
});
by("previous").addEventListener("click", () => step(-1));
by("next").addEventListener("click", () => step(1));
by("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  const view = event.target.closest("[data-view-choice]")?.dataset.viewChoice;
  if (view) choose(view);
  if (event.target === dialog) dialog.close();
});
choose("split");
