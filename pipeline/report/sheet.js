"use strict";

const VIEWS = ["cutout", "split", "mask", "source"];
const body = document.body;
const figures = [...document.querySelectorAll("figure")];
const rows = [...document.querySelectorAll("#failures tr[data-code]")];
const viewer = document.getElementById("viewer");
const help = document.getElementById("help");
const search = document.getElementById("search");
const count = document.getElementById("count");
const color = document.getElementById("color");

let shown = figures;
let open = -1; // index of the figure in the viewer among the visible ones

function press(group, value) {
  for (const button of document.querySelectorAll(`[data-${group}-choice]`)) {
    button.setAttribute("aria-pressed", button.dataset[`${group}Choice`] === value);
  }
}

function choose(group, value) {
  body.dataset[group] = value;
  press(group, value);
}

function cycle(group) {
  const values = [...document.querySelectorAll(`[data-${group}-choice]`)].map(
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

function show(place) {
  if (place < 0 || place >= shown.length) return;
  open = place;
  const figure = shown[place];
  for (const kind of ["cutout", "source"]) {
    viewer.querySelector(`.${kind}`).src = figure.querySelector(`.${kind}`).src;
  }
  const caption = figure.querySelector("figcaption").cloneNode(true);
  viewer.querySelector("p").replaceChildren(...caption.childNodes);
  if (!viewer.open) viewer.showModal();
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
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input");
  if (typing && event.key === "Escape") event.target.blur();
  const step = typing ? undefined : STEPS[event.key];
  if (step && viewer.open) show(open + step());
  else if (step && shown.length) move(step());
  else if (event.key === "Enter" && event.target.matches("figure")) show(shown.indexOf(event.target));
  else if (KEYS[event.key] && event.target.type !== "search") KEYS[event.key]();
  else return;
  event.preventDefault();
}

function clicked(event) {
  const button = event.target.closest("button");
  if (button) {
    for (const [group, apply] of Object.entries(APPLY)) {
      const value = button.dataset[`${group}Choice`];
      if (value !== undefined) apply(value);
    }
    if (button.dataset.step) show(open + Number(button.dataset.step));
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
  if (event.target === search) filter();
  else if (event.target === color) {
    body.style.setProperty("--chosen", color.value);
    APPLY.background("custom");
  } else if (event.target.type === "range") {
    event.target.parentElement.style.setProperty("--split", `${event.target.value}%`);
  }
});
viewer.addEventListener("close", () => shown[open]?.focus());

for (const [group, apply] of Object.entries(APPLY)) apply(body.dataset[group]);
