// The grid: a tile for every photo, from the moment it is chosen to its cutout.

import { urls } from "./api.js";
import { icon, make } from "./dom.js";
import { explainFlag } from "./flags.js";
import { explainError } from "./texts.js";

const SIDE = 480;
const LARGE = 1600;
const ENDED = ["done", "failed"];
const SHOWN_BY_BROWSERS = ["png", "webp", "avif", "jpeg"];

/**
 * @typedef {object} Tile
 * @property {string} name
 * @property {"sending" | "queued" | "running" | "done" | "failed" | "refused"} state
 * @property {object | null} item of the server
 * @property {string} local URL of the chosen file; empty: the server has it
 * @property {HTMLElement} node
 */

export class Grid {
  /**
   * @param {HTMLElement} list
   * @param {(tile: Tile) => void} onOpen
   */
  constructor(list, onOpen) {
    this.list = list;
    this.onOpen = onOpen;
    this.clear();
  }

  clear() {
    this.tiles?.forEach(({ local }) => local && URL.revokeObjectURL(local));
    /** @type {Map<string, Tile>} by the server's name of the photo */
    this.tiles = new Map();
    this.byIndex = [];
    this.filter = "all";
    this.list.replaceChildren();
    delete this.list.dataset.filter;
  }

  /** Index of the first item that has not ended, as far as known. */
  get firstOpen() {
    const at = this.byIndex.findIndex((tile) => !ENDED.includes(tile?.state));
    return at < 0 ? this.byIndex.length : at;
  }

  /** @param {import("./upload.js").Photo[]} photos */
  addLocal(photos) {
    for (const { file, name } of photos) this.#add(name, URL.createObjectURL(file), "sending");
  }

  /** Renames a tile to the server's name of its photo. */
  sent(name, key) {
    const tile = this.tiles.get(name);
    this.tiles.delete(name);
    tile.name = key;
    this.tiles.set(key, tile);
    setState(tile, "queued");
  }

  progress(name, share) {
    this.tiles.get(name)?.node.style.setProperty("--sent", `${Math.round(share * 100)}%`);
  }

  refused(name, error) {
    const tile = this.tiles.get(name);
    setState(tile, "refused", explainError(error.code, error.message));
  }

  /** Shows an item of the server as it is now. */
  apply(job, item) {
    const tile = this.tiles.get(item.source) ?? this.#add(item.source, "", "queued");
    const isUnchanged = tile.item?.state === item.state;
    tile.item = item;
    tile.job = job;
    this.byIndex[item.index] = tile;
    if (isUnchanged) return;
    if (item.state === "failed") setState(tile, "failed", explainError(item.code, item.detail));
    else setState(tile, item.state, item.flags.length ? explainFlag(item.flags[0]) : null);
    if (item.state === "done") this.#showResult(tile);
    else if (!tile.local) tile.photo.src ||= urls.preview(job.job, item.index, "source", SIDE);
  }

  /** @param {"all" | "flagged" | "failed"} filter */
  show(filter) {
    this.filter = filter;
    this.list.dataset.filter = filter;
  }

  /** The finished tiles that the filter shows, in order. */
  finished() {
    const all = this.byIndex.filter((tile) => tile?.state === "done");
    return this.filter === "flagged" ? all.filter(({ item }) => item.flags.length) : all;
  }

  count(state) {
    return [...this.tiles.values()].filter((tile) => tile.state === state).length;
  }

  #add(name, local, state) {
    const photo = make("img", { class: "photo", alt: "", decoding: "async", loading: "lazy" });
    const open = make("button", { type: "button", class: "open", "aria-label": name, disabled: true, on: { click: () => this.onOpen(tile) } },
      photo, make("span", { class: "problem" }));
    const node = make("li", { class: "tile" }, open,
      make("div", { class: "caption" }, make("span", { class: "name", title: name }, name.replace(/^[^/]*\//, "")),
        make("a", { class: "get", download: true }, icon("download"))),
      make("p", { class: "state" }),
      make("p", { class: "advice" }));
    photo.addEventListener("error", () => photo.classList.add("broken"));
    photo.addEventListener("load", () => photo.classList.remove("broken"));
    /** @type {Tile} */
    const tile = { name, item: null, local, node, open, photo };
    if (local) photo.src = local;
    this.tiles.set(name, tile);
    setState(tile, state);
    this.list.append(node);
    return tile;
  }

  #showResult(tile) {
    const { job, item, open, photo, node } = tile;
    open.disabled = false;
    open.setAttribute("aria-label", `View ${tile.name}`);
    const get = node.querySelector(".get");
    get.href = urls.result(job.job, item.index);
    get.setAttribute("aria-label", `Download ${tile.name}`);
    const result = make("img", { class: "result", alt: "", decoding: "async", loading: "lazy" });
    result.addEventListener("load", () => node.classList.add("ready"));
    result.addEventListener("transitionend", () => this.#forget(tile));
    result.src = urls.preview(job.job, item.index, "result", SIDE);
    photo.after(result);
  }

  // The browser may drop the chosen file's pixels once its cutout is there.
  #forget(tile) {
    if (tile.local) URL.revokeObjectURL(tile.local);
    tile.local = "";
    tile.photo.removeAttribute("src");
  }
}

const WORDS = { sending: "Sending", queued: "Waiting", running: "Working", done: "", failed: "Failed", refused: "Refused" };

/** @param {{title: string, advice: string} | null} reason */
function setState(tile, state, reason = null) {
  const { node } = tile;
  tile.state = node.dataset.state = state;
  node.classList.toggle("flagged", state === "done" && reason !== null);
  node.querySelector(".state").replaceChildren(...(reason ? [icon("warning"), reason.title] : [WORDS[state]]));
  node.querySelector(".advice").textContent = reason?.advice ?? "";
  node.querySelector(".problem").textContent = state === "done" ? "" : (reason?.advice ?? "");
}

/** @returns {import("./compose.js").Result & {tile: Tile}} */
export function pictureOf(tile) {
  const { job, item } = tile;
  const preview = (of) => urls.preview(job.job, item.index, of, LARGE);
  const result = urls.result(job.job, item.index);
  const isOpaque = job.format === "jpeg" || Boolean(job.preset.background);
  return {
    tile,
    name: item.source,
    source: preview("source"),
    cutout: preview("result"),
    mask: isOpaque ? null : preview("mask"),
    full: SHOWN_BY_BROWSERS.includes(job.format) ? result : undefined,
    result,
    target: item.target,
    flags: item.flags,
  };
}
