// The contact sheet: views, backgrounds and filters of all images at once, and the viewer for one.

import { Viewer } from "./viewer.js";

const body = document.body;
const figures = [...document.querySelectorAll("figure")];
const rows = [...document.querySelectorAll("#failures tr[data-code]")];
const viewer = new Viewer();
const help = document.getElementById("help");
const search = document.getElementById("search");
const count = document.getElementById("count");
const color = document.getElementById("color");

let shown = figures;

function mark(group, value) {
  for (const button of document.querySelectorAll(`.bar [data-${group}-choice]`)) {
    button.setAttribute("aria-pressed", button.dataset[`${group}Choice`] === value);
  }
}

function choose(group, value) {
  body.dataset[group] = value;
  mark(group, value);
}

function cycle(group) {
  const values = [...document.querySelectorAll(`.bar [data-${group}-choice]`)].map(
    (button) => button.dataset[`${group}Choice`],
  );
  return values[(values.indexOf(body.dataset[group]) + 1) % values.length];
}

function filter() {
  const flag = body.dataset.flag;
  const words = search.value.toLowerCase();
  shown = figures.filter((figure) => {
    const flags = figure.dataset.flags.split(" ");
    const wanted = flag === "all" || (flag === "any" ? flags[0] !== "" : flags.includes(flag));
    figure.hidden = !(wanted && figure.dataset.name.toLowerCase().includes(words));
    return !figure.hidden;
  });
  for (const row of rows) {
    row.hidden =
      (body.dataset.code !== "all" && row.dataset.code !== body.dataset.code) ||
      !row.textContent.toLowerCase().includes(words);
  }
  count.textContent = `${shown.length} of ${figures.length} shown`;
}

const APPLY = {
  view: (value) => choose("view", value),
  background: (value) => choose("background", value),
  flag: (value) => {
    choose("flag", value);
    filter();
  },
  code: (value) => {
    choose("code", value);
    filter();
  },
};

function pictureOf(figure) {
  const [cutout, source] = figure.querySelectorAll("img");
  return {
    name: figure.dataset.name,
    source: source.src,
    cutout: cutout.src,
    flags: figure.dataset.flags.split(" ").filter(Boolean),
  };
}

function show(place) {
  viewer.open(shown.map(pictureOf), place, () => shown[viewer.at]);
}

function columns() {
  const top = shown[0].offsetTop;
  const next = shown.findIndex((figure) => figure.offsetTop !== top);
  return next < 0 ? shown.length : next;
}

function move(steps) {
  const from = shown.indexOf(document.activeElement.closest("figure"));
  const to = from < 0 ? 0 : Math.min(Math.max(from + steps, 0), shown.length - 1);
  if (shown.length) shown[to].focus();
}

const STEPS = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: columns };

const KEYS = {
  v: () => APPLY.view(cycle("view")),
  g: () => APPLY.background(cycle("background")),
  f: () => APPLY.flag(cycle("flag")),
  m: () => APPLY.view(body.dataset.view === "mask" ? "cutout" : "mask"),
  b: () => APPLY.view(body.dataset.view === "split" ? "cutout" : "split"),
  "/": () => search.focus(),
  "?": () => help.showModal(),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || viewer.dialog.open) return;
  const typing = event.target.matches("input");
  if (typing && event.key === "Escape") event.target.blur();
  const step = typing ? undefined : STEPS[event.key];
  if (step && shown.length) move(step());
  else if (event.key === "Enter" && event.target.matches("figure")) show(shown.indexOf(event.target));
  else if (KEYS[event.key] && event.target.type !== "search") KEYS[event.key]();
  else return;
  event.preventDefault();
}

function clicked(event) {
  if (viewer.dialog.contains(event.target)) return;
  const button = event.target.closest("button");
  if (button) {
    for (const [group, apply] of Object.entries(APPLY)) {
      const value = button.dataset[`${group}Choice`];
      if (value !== undefined) apply(value);
    }
    if (button.dataset.opens) document.getElementById(button.dataset.opens).showModal();
    if (button.dataset.close !== undefined) button.closest("dialog").close();
  }
  const figure = event.target.closest("figure");
  if (figure && !event.target.matches("input")) show(shown.indexOf(figure));
  if (event.target.matches("dialog")) event.target.close();
}

document.addEventListener("keydown", pressed);
document.addEventListener("click", clicked);
document.addEventListener("input", (event) => {
  if (viewer.dialog.contains(event.target)) return;
  if (event.target === search) filter();
  else if (event.target === color) {
    body.style.setProperty("--chosen", color.value);
    APPLY.background("custom");
  } else if (event.target.type === "range") {
    event.target.parentElement.style.setProperty("--split", `${event.target.value}%`);
  }
});
for (const [group, apply] of Object.entries(APPLY)) apply(body.dataset[group]);
