// The list of earlier jobs, and their deletion, which can be undone for some seconds.

import { api, urls } from "./api.js";
import { byId, icon, make } from "./dom.js";
import { toast } from "./toast.js";
import { moment, outcome, photos, progress, titleOf } from "./texts.js";

const CLOSED = ["finished", "cancelled"];
const SIDE = 128;

export class JobList {
  /** @param {(error: Error) => void} onError */
  constructor(onError) {
    this.onError = onError;
    this.deleted = new Set(); // jobs whose deletion can still be undone
    this.oldest = null;
    byId("older").addEventListener("click", () => this.load(true).catch(onError));
  }

  async load(more = false) {
    const page = await api.jobs(more ? this.oldest : null);
    const rows = await Promise.all(page.jobs.filter(({ job }) => !this.deleted.has(job)).map((each) => this.#row(each)));
    if (more) byId("jobs").append(...rows);
    else byId("jobs").replaceChildren(...rows);
    this.oldest = page.next;
    byId("older").hidden = !this.oldest;
    byId("earlier").hidden = !byId("jobs").children.length;
  }

  async #row(summary) {
    const isClosed = CLOSED.includes(summary.state);
    const { items } = await api.items(summary.job, 0, 1).catch(() => ({ items: [] }));
    const title = titleOf(summary.source, items[0]?.source, 1);
    const link = make("a", { href: `#${summary.job}` }, title);
    const remove = make("button", { type: "button", class: "button quiet icon-only", "aria-label": `Delete ${title}`, title: "Delete",
      on: { click: () => this.remove(summary, title) } }, icon("trash"));
    remove.hidden = !isClosed;
    return make("li", { class: "row", "data-job": summary.job },
      thumbnail(summary, items[0]),
      make("div", {}, link, make("p", { class: "soft" }, `${photos(summary.total)} · ${moment(summary.created)}`)),
      make("p", { class: "soft counts" }, isClosed ? outcome(summary) : progress(summary)),
      remove);
  }

  /** Hides a job, and deletes it once it is too late to undo. */
  remove(summary, title) {
    const { job } = summary;
    this.deleted.add(job);
    const isShown = location.hash === `#${job}`;
    const undo = () => {
      this.deleted.delete(job);
      if (isShown) location.hash = job;
      else this.load().catch(this.onError);
    };
    toast(`“${title}” deleted.`, { label: "Undo", run: undo }, () => this.#forget(job));
    if (isShown) location.hash = "";
    else this.load().catch(this.onError);
  }

  async #forget(job) {
    try {
      await api.remove(job);
    } catch (error) {
      this.onError(error);
      this.deleted.delete(job);
    }
  }
}

function thumbnail({ job }, item) {
  const image = make("img", { alt: "", width: 56, height: 56, loading: "lazy", decoding: "async" });
  if (item) image.src = urls.preview(job, item.index, item.state === "done" ? "result" : "source", SIDE);
  return image;
}
