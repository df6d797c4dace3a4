// The viewer: compare a cutout with its source, zoom, and try backgrounds.

import { icon, make } from "./dom.js";
import { explainFlag } from "./flags.js";
import { Zoom } from "./zoom.js";

/**
 * @typedef {object} Picture
 * @property {string} name
 * @property {string} source URL of the photo
 * @property {string} cutout URL of the cutout
 * @property {string | null} [mask] URL of the mask; null: there is none; absent: drawn from the cutout's alpha
 * @property {string} [full] URL of the cutout in full size, shown from FULL on
 * @property {string[]} flags
 *
 * @typedef {{kind: "checks"} | {kind: "color" | "image", value: string}} Background
 *
 * @typedef {object} Action
 * @property {string} label
 * @property {string} icon
 * @property {boolean} [primary]
 * @property {(picture: Picture) => boolean} [fits] whether it applies to a picture; by default to each
 * @property {(picture: Picture, background: Background) => Promise<string | void>} run returns what to say
 */

const FULL = 1.5; // scale from which the full size is loaded
const VIEWS = { split: "Compare", cutout: "Cutout", mask: "Mask", source: "Original" };
const COLORS = { white: "#ffffff", black: "#000000" };

export class Viewer {
  /** @param {Action[]} actions */
  constructor(actions = []) {
    this.pictures = [];
    this.at = 0;
    this.view = "split";
    /** @type {Background} */
    this.background = { kind: "checks" };
    this.actions = actions.map((action) => ({ ...action, button: this.#action(action) }));
    this.#build();
    this.zoom = new Zoom(this.stage, { onZoom: (scale) => this.#zoomed(scale), onSwipe: (way) => this.step(way) });
    this.setView("split");
    this.setBackground({ kind: "checks" });
    document.body.append(this.dialog);
  }

  /** Opens at `pictures[at]`; `focus` gets the focus of the page when the viewer closes. */
  open(pictures, at, focus = () => null) {
    this.pictures = pictures;
    this.focus = focus;
    if (!this.dialog.open) this.dialog.showModal();
    this.show(at);
    if (this.view === "split") this.split.focus();
  }

  get picture() {
    return this.pictures[this.at];
  }

  show(at) {
    this.at = at;
    this.zoom.reset();
    const { name, flags } = this.picture;
    this.title.textContent = name;
    this.place.textContent = this.pictures.length > 1 ? `${at + 1} of ${this.pictures.length}` : "";
    this.notes.replaceChildren(...flags.map(noteOf));
    this.message.textContent = "";
    this.previous.disabled = at === 0;
    this.next.disabled = at === this.pictures.length - 1;
    this.previous.hidden = this.next.hidden = this.pictures.length < 2;
    this.buttons.views.mask.hidden = this.picture.mask === null;
    for (const { button, fits } of this.actions) button.hidden = !(fits?.(this.picture) ?? true);
    if (this.view === "mask" && this.picture.mask === null) this.setView("cutout");
    this.#load();
    for (const near of [this.pictures[at + 1], this.pictures[at - 1]]) if (near) new Image().src = near.cutout;
  }

  step(offset) {
    const at = this.at + offset;
    if (this.pictures[at]) this.show(at);
  }

  setView(view) {
    this.view = this.dialog.dataset.view = view;
    press(this.buttons.views, view);
    if (this.picture) this.#load();
  }

  /** @param {Background} background */
  setBackground(background) {
    this.background = background;
    const { kind, value } = background;
    this.dialog.dataset.background = kind;
    const paint = { checks: "", color: value, image: `center / cover url("${value}")` }[kind];
    this.stage.style.setProperty("--background", paint);
    press(this.buttons.backgrounds, kind === "checks" ? kind : value);
  }

  #load() {
    const { source, cutout, mask } = this.picture;
    const masked = this.view === "mask";
    this.dialog.classList.toggle("drawn-mask", masked && mask === undefined);
    setImage(this.cutoutImage, masked && mask ? mask : cutout);
    setImage(this.sourceImage, source);
    const text = { cutout: "cutout of", mask: "mask of", split: "cutout of", source: "cutout of" }[this.view];
    this.cutoutImage.alt = `${text} ${this.picture.name}`;
    this.sourceImage.alt = `original of ${this.picture.name}`;
  }

  #zoomed(scale) {
    if (this.percent) this.percent.textContent = `${Math.round(scale * 100)} %`;
    if (scale > FULL && this.picture?.full && this.view !== "mask") setImage(this.cutoutImage, this.picture.full);
  }

  #build() {
    const button = (name, label, run, classes = "") =>
      make("button", { type: "button", class: `tool ${classes}`, "aria-label": label, title: label, on: { click: run } }, icon(name));
    this.title = make("h2", { id: "viewer-title" });
    this.place = make("span", { class: "place" });
    this.message = make("p", { class: "message", role: "status" });
    this.notes = make("ul", { class: "notes", "aria-label": "What to check" });
    this.split = make("input", { type: "range", class: "split", min: 0, max: 100, value: 50, "aria-label": "Compare original and cutout" });
    this.cutoutImage = make("img", { alt: "", class: "frame" });
    this.sourceImage = make("img", { alt: "", class: "frame" });
    this.previous = button("back", "Previous image (p)", () => this.step(-1), "previous");
    this.next = button("forward", "Next image (n)", () => this.step(1), "next");
    this.percent = make("output", { class: "percent" }, "100 %");
    this.stage = make(
      "div",
      { class: "viewer-stage" },
      make("div", { class: "layer cutout" }, this.cutoutImage),
      make("div", { class: "layer source" }, this.sourceImage),
      this.split,
      make("div", { class: "handle" }, icon("compare")),
      this.previous,
      this.next,
    );
    this.dialog = make(
      "dialog",
      { class: "viewer", "aria-labelledby": "viewer-title" },
      make("header", {}, make("div", {}, this.title, this.place), button("close", "Close (Esc)", () => this.dialog.close(), "close")),
      this.stage,
      make("div", { class: "below" }, this.notes, this.message),
      make(
        "footer",
        {},
        this.#views(),
        this.#backgrounds(),
        make("div", { class: "group", role: "group", "aria-label": "Zoom" },
          button("minus", "Zoom out (−)", () => this.zoom.by(1 / 1.5)), this.percent,
          button("plus", "Zoom in (+)", () => this.zoom.by(1.5))),
        make("div", { class: "group actions" }, ...this.actions.map(({ button }) => button)),
      ),
    );
    this.#listen();
  }

  #views() {
    const views = Object.entries(VIEWS).map(([view, label]) => [
      view,
      make("button", { type: "button", class: "tool", "data-view-choice": view, on: { click: () => this.setView(view) } }, label),
    ]);
    this.buttons = { views: Object.fromEntries(views), backgrounds: {} };
    return make("div", { class: "group", role: "group", "aria-label": "View" }, ...views.map(([, each]) => each));
  }

  #backgrounds() {
    const swatch = (key, label, background) => {
      const title = `${label} background`;
      const each = make("button", { type: "button", class: `swatch ${label}`, title, "aria-label": title,
        on: { click: () => this.setBackground(background) } });
      this.buttons.backgrounds[key] = each;
      return each;
    };
    const color = make("input", { type: "color", value: "#ffd54a", title: "Any color", "aria-label": "Background of any color",
      on: { input: (event) => this.setBackground({ kind: "color", value: event.target.value }) } });
    const image = make("input", { type: "file", accept: "image/*", "aria-label": "Background image", on: { change: (event) => this.#pickImage(event.target) } });
    return make("div", { class: "group", role: "group", "aria-label": "Background" },
      swatch("checks", "checkered", { kind: "checks" }),
      ...Object.entries(COLORS).map(([name, value]) => swatch(value, name, { kind: "color", value })),
      color,
      make("label", { class: "tool", title: "Background image" }, icon("image"), image));
  }

  #pickImage(input) {
    if (input.files[0]) this.setBackground({ kind: "image", value: URL.createObjectURL(input.files[0]) });
    input.value = "";
  }

  #action({ label, icon: name, primary = false, run }) {
    const act = async (event) => {
      const button = event.currentTarget;
      button.disabled = true;
      try {
        this.message.classList.remove("error");
        this.message.textContent = (await run(this.picture, this.background)) ?? "";
      } catch (error) {
        this.message.classList.add("error");
        this.message.textContent = error.message;
      } finally {
        button.disabled = false;
      }
    };
    return make("button", { type: "button", class: `tool text${primary ? " primary" : ""}`, on: { click: act } }, icon(name), make("span", {}, label));
  }

  #listen() {
    this.split.addEventListener("input", () => this.stage.style.setProperty("--split", `${this.split.value}%`));
    this.stage.style.setProperty("--split", "50%");
    for (const image of [this.cutoutImage, this.sourceImage]) {
      image.addEventListener("load", () => image.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight)));
    }
    this.dialog.addEventListener("keydown", (event) => this.#pressed(event));
    this.dialog.addEventListener("close", () => this.focus()?.focus());
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const sliding = event.target === this.split;
    const keys = {
      n: () => this.step(1),
      p: () => this.step(-1),
      m: () => this.buttons.views.mask.hidden || this.setView(this.view === "mask" ? "cutout" : "mask"),
      c: () => this.setView(this.view === "split" ? "cutout" : "split"),
      "+": () => this.zoom.by(1.5),
      "=": () => this.zoom.by(1.5),
      "-": () => this.zoom.by(1 / 1.5),
      0: () => this.zoom.reset(),
      ...(sliding ? {} : { ArrowRight: () => this.step(1), ArrowLeft: () => this.step(-1) }),
    };
    if (!keys[event.key]) return;
    keys[event.key]();
    event.preventDefault();
    event.stopPropagation();
  }
}

function press(buttons, chosen) {
  for (const [key, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(key === chosen));
}

// A picture that stays the same keeps its pixels; a new one must not flash the last.
function setImage(image, url) {
  if (image.getAttribute("src") !== url) image.src = url;
}

function noteOf(flag) {
  const { title, advice } = explainFlag(flag);
  return make("li", {}, icon("warning"), make("span", {}, make("strong", { class: "flag" }, title), ` ${advice}`));
}
