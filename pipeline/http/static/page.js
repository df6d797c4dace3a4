// The page: where photos come in, and which view is shown. The URL fragment names the job.

import { api } from "./api.js";
import { copy, download } from "./compose.js";
import { byId } from "./dom.js";
import { JobView } from "./job.js";
import { JobList } from "./jobs.js";
import { OptionFields, hasOnlyDemo } from "./options.js";
import { onRedo, openRedo } from "./redo.js";
import { openSamplesIn } from "./samples.js";
import { capitalize, count } from "./texts.js";
import { dismiss, toast } from "./toast.js";
import { chosenFiles, droppedFiles } from "./upload.js";
import { Viewer } from "./viewer.js";

const STORED = "bgpipe-options";
let options = null; // of the server

const viewer = new Viewer([
  { label: "Copy", icon: "copy", run: copy },
  { label: "Redo", icon: "redo", fits: ({ tile }) => Boolean(tile) && !byId("redo").disabled, run: redoOne },
  { label: "Download", icon: "download", primary: true, run: download },
]);
const view = new JobView(viewer, showError, goHome);
const list = new JobList(showError);
const fields = new OptionFields(byId("option-fields"), "new", storeOptions);

function showError(error) {
  if (error.status === 401) byId("key-dialog").open || byId("key-dialog").showModal();
  else if (error.message) toast(error.message);
}

async function start() {
  options = await api.options();
  fields.fill(options, readStored());
  showChosen();
  await route();
}

async function route() {
  const job = decodeURIComponent(location.hash.slice(1));
  const isHome = !job && !view.isSending;
  document.documentElement.dataset.view = isHome ? "home" : "job";
  if (isHome) return showHome();
  if (!job) return;
  try {
    await view.show(job);
  } catch (error) {
    if (error.status !== 404) throw error;
    history.replaceState(null, "", "#");
    await route();
    toast("This job is gone.");
  }
}

function goHome() {
  if (location.hash) location.hash = "";
  else route().catch(showError);
}

async function showHome() {
  view.close();
  document.title = "bgpipe: remove backgrounds";
  await list.load();
  byId("demo").hidden = !hasOnlyDemo(options);
}

// Options

function readStored() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

function storeOptions() {
  localStorage.setItem(STORED, JSON.stringify(fields.value));
  showChosen();
}

function showChosen() {
  const { preset, format } = fields.value;
  byId("chosen").textContent = `${capitalize(preset)} · ${format.toUpperCase()}`;
}

// Photos

/** @param {import("./upload.js").Photo[]} photos */
async function send(photos) {
  byId("home-error").textContent = "";
  if (!photos.length || !options) return;
  if (view.isSending) return toast("Still sending the last photos. Try again once they are sent.");
  if (photos.length > options.files) {
    byId("home-error").textContent = `${count(photos.length)} photos: this server takes ${count(options.files)} at once.`;
    return goHome();
  }
  document.querySelector("dialog[open]")?.close();
  document.documentElement.dataset.view = "job";
  history.replaceState(null, "", "#");
  scrollTo(0, 0);
  try {
    const summary = await view.send(photos, fields.value);
    if (summary) location.hash = summary.job;
  } catch (error) {
    if (error.name === "AbortError") return; // stopped
    document.documentElement.dataset.view = "home";
    if (error.status === 401) throw error;
    byId("home-error").textContent = error.message;
    await showHome();
  }
}

for (const id of ["files", "folder"]) {
  byId(id).addEventListener("change", ({ target }) => {
    const photos = chosenFiles(target.files);
    target.value = "";
    send(photos).catch(showError);
  });
}

function carriesFiles(event) {
  return [...(event.dataTransfer?.types ?? [])].includes("Files");
}

let depth = 0; // of elements that the files are dragged over
addEventListener("dragenter", (event) => {
  if (!carriesFiles(event)) return;
  depth += 1;
  byId("dropping").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (carriesFiles(event)) byId("dropping").hidden = (depth -= 1) > 0;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  byId("dropping").hidden = true;
  droppedFiles(event.dataTransfer).then(send).catch(showError);
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) send(chosenFiles(event.clipboardData.files)).catch(showError);
});

// One job

for (const link of document.querySelectorAll('a[href="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    goHome();
  });
}
byId("redo").addEventListener("click", () => openRedo(options, view.summary));
byId("delete").addEventListener("click", () => list.remove(view.summary, byId("job-title").textContent));
onRedo((job) => {
  viewer.dialog.close();
  location.hash = job;
});
function redoOne({ name }) {
  openRedo(options, view.summary, name);
}

// The rest

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await api.beginSession(byId("key").value);
    byId("key-dialog").close();
    await start();
  } catch (error) {
    byId("key-message").textContent = error.message;
  }
});
addEventListener("hashchange", () => route().catch(showError));
addEventListener("pagehide", dismiss);
addEventListener("beforeunload", (event) => view.isSending && event.preventDefault());

openSamplesIn(viewer);
start().catch(showError);
