// The view of one job, from its first uploaded photo to its download.

import { api, urls } from "./api.js";
import { byId } from "./dom.js";
import { toast } from "./toast.js";
import { count, outcome, photos as photosText, progress, titleOf } from "./texts.js";
import { Grid, pictureOf } from "./tiles.js";
import { submitPhotos } from "./upload.js";

const PAGE = 200; // items of one request
const WORKER_TIMEOUT = 15; // seconds without a worker
const FEW = 8;
const CLOSED = ["finished", "cancelled"];

export class JobView {
  /**
   * @param {import("./viewer.js").Viewer} viewer
   * @param {(error: Error) => void} onError errors that have no place in this view
   * @param {() => void} onLeave nothing is left to show
   */
  constructor(viewer, onError, onLeave) {
    this.viewer = viewer;
    this.onLeave = onLeave;
    this.onError = onError;
    this.summary = null;
    this.grid = new Grid(byId("grid"), (tile) => this.#view(tile));
    this.sentinel = new IntersectionObserver(([entry]) => entry.isIntersecting && this.#loadMore());
    this.sentinel.observe(byId("more"));
    for (const chip of document.querySelectorAll("[data-show]")) {
      chip.addEventListener("click", () => this.#filter(chip.dataset.show));
    }
    byId("stop").addEventListener("click", () => this.#stop());
    byId("retry").addEventListener("click", () => this.#change(api.retry));
  }

  get id() {
    return this.summary?.job ?? "";
  }

  /** Whether photos are being sent. */
  get isSending() {
    return Boolean(this.sending && !this.sending.signal.aborted);
  }

  close() {
    clearTimeout(this.idle);
    this.stream?.close();
    this.stream = this.summary = null;
    this.grid.clear();
    this.wanted = PAGE;
    this.total = 0;
    byId("job-error").textContent = "";
    delete byId("job").dataset.ready;
    this.#filter("all");
  }

  /** Shows a job of the server. Raises ApiError. */
  async show(id) {
    if (id === this.id) return;
    this.close();
    const opening = (this.opening = Symbol(id));
    const summary = await api.job(id);
    if (this.opening !== opening) return;
    await this.#update(summary);
    this.#follow(id);
    byId("job-title").focus({ preventScroll: true });
  }

  /** Sends photos and shows each at once; resolves to the job, or to null if there is none. */
  async send(photos, options) {
    this.close();
    this.opening = this.sending = new AbortController();
    const { sending } = this;
    this.grid.addLocal(photos);
    this.total = photos.length;
    const shares = new Map();
    const report = (note = "") => this.#showSending(photos, shares, note);
    report();
    try {
      const summary = await submitPhotos(photos, options, {
        onProgress: (photo, share) => {
          shares.set(photo, share);
          this.grid.progress(photo.name, share);
          report();
        },
        onSent: (photo, key) => {
          shares.set(photo, 1);
          if (this.opening === sending) this.grid.sent(photo.name, key);
          report();
        },
        onRefused: (photo, error) => {
          shares.set(photo, 1);
          if (this.opening === sending) this.grid.refused(photo.name, error);
          report();
        },
        onFull: () => report("The server is busy. Sending goes on by itself."),
      }, sending.signal);
      if (!summary) this.#showAllRefused();
      else if (this.opening === sending) await this.#adopt(summary);
      return summary;
    } finally {
      if (this.sending === sending) this.sending = null;
    }
  }

  async #adopt(summary) {
    byId("job-error").textContent = "";
    await this.#update(summary);
    this.#follow(summary.job);
  }

  #showSending(photos, shares, note) {
    if (this.opening !== this.sending) return; // another job is shown meanwhile
    const size = (list) => list.reduce((sum, { file }) => sum + file.size, 0) || 1;
    const sent = photos.reduce((sum, photo) => sum + photo.file.size * (shares.get(photo) ?? 0), 0);
    const done = [...shares.values()].filter((share) => share === 1).length;
    this.#setTitle(titleOf("", photos[0].name, photos.length - this.grid.count("refused")));
    byId("download").textContent = photos.length > 1 ? "Download all" : "Download";
    byId("summary").textContent = `Sending ${count(Math.min(done + 1, photos.length))} of ${count(photos.length)}`;
    setMeter(sent / size(photos));
    byId("job-error").textContent = note;
    sizeGrid(photos.length);
    setActions({ stop: true });
    this.#showCounts({ total: photos.length, flagged: 0, failed: 0 });
    byId("job").dataset.ready = "true";
  }

  #showAllRefused() {
    byId("summary").textContent = "No photo could be used. Choose others.";
    setMeter(0);
    setActions({});
  }

  async #update(summary) {
    this.summary = summary;
    const isClosed = CLOSED.includes(summary.state);
    await this.#load();
    if (summary !== this.summary) return;
    const first = this.grid.byIndex.find(Boolean)?.name;
    this.#setTitle(titleOf(summary.source, first, summary.total), summary);
    byId("summary").textContent = isClosed ? outcome(summary, this.grid.count("refused")) : progress(summary);
    const ended = summary.done + summary.failed + summary.skipped;
    setMeter(ended / Math.max(summary.total, 1));
    sizeGrid(this.#size());
    this.#showActions(summary, isClosed);
    this.#showCounts(summary);
    this.#watch(summary, isClosed);
    byId("job").dataset.ready = "true";
  }

  // The server sends nothing while nothing happens.
  #watch({ running, done, failed, paused }, isClosed) {
    byId("job-error").textContent = paused ? `Paused ${paused}. It goes on by itself.` : "";
    clearTimeout(this.idle);
    if (isClosed || running || done || failed || paused) return;
    this.idle = setTimeout(() => {
      byId("job-error").textContent = "Still waiting for a worker. Start one on the server: bgpipe worker";
    }, WORKER_TIMEOUT * 1000);
  }

  // Refused photos stay in the grid, but are not part of the job.
  #size() {
    return Math.max(this.summary.total, this.grid.tiles.size);
  }

  #setTitle(title, summary = null) {
    byId("job-title").textContent = title;
    const isOpen = summary && !CLOSED.includes(summary.state);
    document.title = `${isOpen ? `${summary.done + summary.failed}/${summary.total} · ` : ""}${title} · bgpipe`;
  }

  #showActions(summary, isClosed) {
    const link = byId("download");
    const only = summary.total === 1 && this.grid.byIndex.find((tile) => tile?.state === "done");
    link.textContent = only || summary.total === 1 ? "Download" : "Download all";
    if (summary.done) link.href = only ? urls.result(summary.job, only.item.index) : urls.zip(summary.job);
    link.toggleAttribute("download", true);
    setActions({
      download: summary.done > 0,
      redo: isClosed && summary.source.startsWith("upload:"),
      stop: !isClosed,
      remove: isClosed,
      retry: summary.state === "finished" && summary.failed > 0,
    });
  }

  #showCounts({ total, flagged, failed }) {
    const counts = { all: Math.max(total, this.grid.tiles.size), flagged, failed: failed + this.grid.count("refused") };
    for (const chip of document.querySelectorAll("[data-show]")) {
      const number = counts[chip.dataset.show];
      chip.querySelector("span").textContent = count(number);
      chip.disabled = !number;
    }
    if (!counts[this.grid.filter]) this.#filter("all");
  }

  #filter(filter) {
    this.grid.show(filter);
    for (const chip of document.querySelectorAll("[data-show]")) {
      chip.setAttribute("aria-pressed", String(chip.dataset.show === filter));
    }
    if (filter !== "all" && this.summary) this.#loadAll();
  }

  #view(tile) {
    const tiles = this.grid.finished();
    this.viewer.open(tiles.map(pictureOf), tiles.indexOf(tile), () => this.viewer.picture.tile.open);
  }

  // Items

  async #load() {
    const { summary } = this;
    const isClosed = CLOSED.includes(summary.state);
    let start = this.grid.firstOpen;
    do {
      const page = await api.items(summary.job, start, PAGE);
      if (summary.job !== this.id) return;
      page.items.forEach((item) => this.grid.apply(summary, item));
      start = page.next;
    } while (start !== null && start < (isClosed ? Math.max(this.wanted, this.grid.tiles.size) : this.wanted));
    this.hasMore = start !== null;
  }

  #loadMore() {
    if (!this.hasMore || !this.summary) return;
    this.hasMore = false;
    this.wanted = this.grid.byIndex.length + PAGE;
    this.#load().catch(this.onError);
  }

  #loadAll() {
    this.wanted = Infinity;
    if (this.hasMore) this.#load().catch(this.onError);
  }

  // Changes

  #follow(id) {
    this.stream = api.events(id);
    const next = async ({ data, type }) => {
      if (type === "end") this.stream.close();
      this.latest = JSON.parse(data);
      if (this.updating) return; // the running update takes the latest when it is done
      this.updating = true;
      while (this.latest) {
        const summary = this.latest;
        this.latest = null;
        if (summary.job === this.id) await this.#update(summary).catch(this.onError);
      }
      this.updating = false;
      if (type === "end" && id === this.id) this.#announce();
    };
    this.stream.addEventListener("summary", next);
    this.stream.addEventListener("end", next);
    this.stream.addEventListener("error", () => {
      if (id === this.id && this.stream.readyState === EventSource.CONNECTING) {
        byId("job-error").textContent = "The connection was lost. Trying again…";
      }
    });
  }

  #announce() {
    byId("announcer").textContent = `${photosText(this.summary.total)}: ${outcome(this.summary)}`;
  }

  async #stop() {
    if (this.isSending) {
      this.sending.abort();
      this.onLeave();
      toast("Stopped. Nothing was kept.");
      return;
    }
    await this.#change(api.cancel);
  }

  async #change(request) {
    const { id } = this;
    try {
      const summary = await request(id);
      if (id !== this.id) return;
      this.stream.close();
      this.grid.byIndex = [];
      await this.#update(summary);
      this.#follow(id);
    } catch (error) {
      byId("job-error").textContent = error.message;
    }
  }
}

// One photo is shown large, and a few fill the width.
function sizeGrid(size) {
  byId("grid").classList.toggle("single", size === 1);
  byId("grid").classList.toggle("few", size > 1 && size <= FEW);
}

function setMeter(share) {
  byId("progress").value = share;
}

function setActions({ download = false, redo = false, stop = false, remove = false, retry = false }) {
  byId("download").setAttribute("aria-disabled", String(!download));
  if (!download) byId("download").removeAttribute("href");
  byId("redo").disabled = !redo;
  byId("stop").disabled = !stop;
  byId("stop").hidden = remove;
  byId("delete").hidden = !remove;
  byId("retry").hidden = !retry;
}
