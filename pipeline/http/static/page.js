// The page: options, uploads, jobs. The URL fragment names the job shown.

import { api, urls } from "./api.js";
import { chosenFiles, droppedFiles, submitFiles } from "./upload.js";
import { openViewer } from "./viewer.js";

const SIDE = 480;
const ITEMS = 60;
const CLOSED = ["finished", "cancelled"];
const byId = (id) => document.getElementById(id);

let shown = ""; // a job id
let stream = null;
let items = [];
let limit = ITEMS;
let oldest = null;

function element(tag, text = "", classes = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = classes;
  return made;
}

function showMessage(text, isError = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("error", isError);
}

function showError(error) {
  if (error.status === 401) byId("key-dialog").open || byId("key-dialog").showModal();
  else showMessage(error.message, true);
}

function describe(summary) {
  const parts = [`${summary.done} of ${summary.total} done`];
  if (summary.skipped) parts.push(`${summary.skipped} up to date`);
  if (summary.failed) parts.push(`${summary.failed} failed`);
  for (const [flag, count] of Object.entries(summary.flags)) parts.push(`${flag} ${count}`);
  if (summary.queued || summary.running) parts.push(`${summary.queued + summary.running} waiting`);
  return `${summary.state}: ${parts.join(", ")}`;
}

function fillSelect(select, names, initial) {
  select.replaceChildren(
    ...names.map(({ name, text = name, disabled = false }) => {
      const option = element("option", text);
      option.value = name;
      option.disabled = disabled;
      return option;
    }),
  );
  select.value = localStorage.getItem(select.id) ?? initial;
  if (!select.value) select.value = initial;
}

async function start() {
  const options = await api.options();
  fillSelect(byId("preset"), Object.keys(options.presets).map((name) => ({ name })), options.preset);
  const models = options.models.map(({ name, here }) => ({
    name,
    text: here ? name : `${name} (not on this server)`,
    disabled: !here,
  }));
  fillSelect(byId("model"), [{ name: "", text: `the server's (${options.model})` }, ...models], "");
  fillSelect(byId("format"), options.formats.map((name) => ({ name })), "png");
  await listJobs();
  await show(decodeURIComponent(location.hash.slice(1)));
}

// Jobs

function jobLine(summary) {
  const line = element("li");
  const link = element("a", new Date(summary.created * 1000).toLocaleString());
  link.href = `#${summary.job}`;
  link.title = summary.job;
  if (summary.job === shown) link.setAttribute("aria-current", "true");
  line.dataset.job = summary.job;
  line.append(link, element("span", `${describe(summary)} · ${summary.model}`));
  return line;
}

async function listJobs(more = false) {
  const page = await api.jobs(more ? oldest : null);
  if (!more) byId("jobs").replaceChildren();
  byId("jobs").append(...page.jobs.map(jobLine));
  if (!byId("jobs").children.length) byId("jobs").append(element("li", "none yet"));
  oldest = page.next;
  byId("older").hidden = !oldest;
}

function showSummary(summary) {
  byId("job-title").textContent = `Job ${summary.job}`;
  byId("summary").textContent = describe(summary);
  byId("progress").max = Math.max(summary.total, 1);
  byId("progress").value = summary.done + summary.failed + summary.skipped;
  byId("zip").href = urls.zip(summary.job);
  byId("zip").hidden = !summary.done;
  byId("cancel").hidden = CLOSED.includes(summary.state);
  byId("delete").hidden = !CLOSED.includes(summary.state);
  byId("retry").hidden = summary.state !== "finished" || !summary.failed;
  document.querySelector(`#jobs [data-job="${CSS.escape(summary.job)}"]`)?.replaceWith(jobLine(summary));
}

function card(item, at) {
  const line = element("li", "", item.state);
  const button = element("button");
  button.type = "button";
  button.disabled = item.state !== "done";
  const stage = element("span", "", "stage");
  if (item.state === "done") {
    const image = element("img");
    image.alt = "";
    image.loading = "lazy";
    image.src = urls.preview(shown, item.index, "result", SIDE);
    stage.append(image);
  }
  const name = element("span", `${item.source} `, "name");
  name.append(element("span", item.code ?? item.state, "state"));
  name.append(...item.flags.map((flag) => element("span", flag, "flag")));
  button.append(stage, name);
  button.addEventListener("click", () => {
    const done = items.filter(({ state }) => state === "done");
    openViewer(shown, done, done.indexOf(items[at]));
  });
  line.append(button);
  return line;
}

function showFailures(failed) {
  const rows = failed.map((item) => {
    const row = element("tr");
    row.append(...[item.code, item.source, item.detail].map((text) => element("td", text)));
    return row;
  });
  byId("failures").querySelector("tbody").replaceChildren(...rows);
  byId("failures").hidden = !rows.length;
}

async function showItems() {
  const job = shown;
  const page = await api.items(job, 0, limit);
  if (job !== shown) return;
  const cards = byId("gallery").children;
  page.items.forEach((item, at) => {
    const before = items[at];
    if (before?.state === item.state && cards[at]) return; // unchanged cards keep their images
    items[at] = item;
    const fresh = card(item, at);
    if (cards[at]) cards[at].replaceWith(fresh);
    else byId("gallery").append(fresh);
  });
  items = page.items;
  byId("more").hidden = page.next === null;
  showFailures(items.filter(({ state }) => state === "failed"));
}

async function show(job) {
  stream?.close();
  shown = job;
  items = [];
  limit = ITEMS;
  byId("gallery").replaceChildren();
  byId("job").hidden = !job;
  for (const link of document.querySelectorAll("#jobs a")) {
    link.toggleAttribute("aria-current", link.hash === `#${job}`);
  }
  if (!job) return;
  try {
    await update(await api.job(job));
  } catch (error) {
    byId("job").hidden = true;
    throw error;
  }
  follow(job);
}

async function update(summary) {
  showSummary(summary);
  await showItems();
}

function follow(job) {
  stream = api.events(job);
  stream.addEventListener("summary", (event) => update(JSON.parse(event.data)).catch(showError));
  stream.addEventListener("end", (event) => {
    stream.close();
    update(JSON.parse(event.data)).catch(showError);
    showMessage("");
  });
}

// Uploads

async function submit(files) {
  if (!files.length) return;
  byId("refused").replaceChildren();
  byId("sending").hidden = false;
  byId("sending").value = 0;
  showMessage(`sending ${files.length} images`);
  const options = {
    preset: byId("preset").value,
    model: byId("model").value,
    format: byId("format").value,
  };
  const job = await submitFiles(files, options, {
    onFull: (error) => showMessage(error.message),
    onRefused: (name, error) => byId("refused").append(element("li", `${name}: ${error.message}`)),
    onSent: (count, total) => {
      byId("sending").max = total;
      byId("sending").value = count;
      showMessage(`sent ${count} of ${total} images`);
    },
  }).finally(() => {
    byId("sending").hidden = true;
  });
  if (!job) return showMessage("all images were refused", true);
  showMessage(`job ${job.job} started`);
  await listJobs();
  location.hash = job.job;
}

async function change(request) {
  const job = shown;
  try {
    await request(job);
    if (job === shown) await show(job);
  } catch (error) {
    showError(error);
  }
}

async function forget() {
  await api.remove(shown);
  location.hash = "";
  await listJobs();
}

for (const id of ["files", "folder"]) {
  byId(id).addEventListener("change", (event) => {
    const files = chosenFiles(event.target.files);
    event.target.value = "";
    submit(files).catch(showError);
  });
}
for (const id of ["preset", "model", "format"]) {
  byId(id).addEventListener("change", (event) => localStorage.setItem(id, event.target.value));
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  droppedFiles(event.dataTransfer).then(submit).catch(showError);
});
byId("cancel").addEventListener("click", () => change((job) => api.change(job, "cancel")));
byId("retry").addEventListener("click", () => change((job) => api.change(job, "retry")));
byId("delete").addEventListener("click", () => forget().catch(showError));
byId("more").addEventListener("click", () => {
  limit += ITEMS;
  showItems().catch(showError);
});
byId("older").addEventListener("click", () => listJobs(true).catch(showError));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api
    .beginSession(byId("key").value)
    .then(() => byId("key-dialog").close())
    .then(start)
    .catch((error) => (byId("key-message").textContent = error.message));
});
addEventListener("hashchange", () => show(decodeURIComponent(location.hash.slice(1))).catch(showError));

start().catch(showError);
