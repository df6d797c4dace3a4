// The page: what is chosen, what is sent, and how the jobs stand. The job shown is in the address.

import { api, place } from "./api.js";
import { chosen, dropped, sendAll } from "./sending.js";
import { view } from "./viewer.js";

const SIDE = 480;
const ITEMS = 60;
const OVER = ["finished", "cancelled"];
const by = (id) => document.getElementById(id);

let shown = ""; // the job
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

function say(text, bad = false) {
  by("message").textContent = text;
  by("message").classList.toggle("error", bad);
}

function complain(error) {
  if (error.status === 401) by("key-dialog").open || by("key-dialog").showModal();
  else say(error.message, true);
}

function sentence(books) {
  const parts = [`${books.done} of ${books.total} done`];
  if (books.skipped) parts.push(`${books.skipped} up to date`);
  if (books.failed) parts.push(`${books.failed} failed`);
  for (const [flag, count] of Object.entries(books.flags)) parts.push(`${flag} ${count}`);
  if (books.queued || books.running) parts.push(`${books.queued + books.running} waiting`);
  return `${books.state}: ${parts.join(", ")}`;
}

function options(select, names, wanted) {
  select.replaceChildren(
    ...names.map(({ name, text = name, off = false }) => {
      const option = element("option", text);
      option.value = name;
      option.disabled = off;
      return option;
    }),
  );
  select.value = localStorage.getItem(select.id) ?? wanted;
  if (!select.value) select.value = wanted;
}

async function start() {
  const choices = await api.choices();
  options(by("preset"), Object.keys(choices.presets).map((name) => ({ name })), choices.preset);
  const models = choices.models.map(({ name, here }) => ({
    name,
    text: here ? name : `${name} (not on this server)`,
    off: !here,
  }));
  options(by("model"), [{ name: "", text: `the server's (${choices.model})` }, ...models], "");
  options(by("format"), choices.formats.map((name) => ({ name })), "png");
  await listJobs();
  await show(decodeURIComponent(location.hash.slice(1)));
}

// Jobs

function jobLine(books) {
  const line = element("li");
  const link = element("a", new Date(books.created * 1000).toLocaleString());
  link.href = `#${books.job}`;
  link.title = books.job;
  if (books.job === shown) link.setAttribute("aria-current", "true");
  line.dataset.job = books.job;
  line.append(link, element("span", `${sentence(books)} · ${books.model}`));
  return line;
}

async function listJobs(more = false) {
  const page = await api.jobs(more ? oldest : null);
  if (!more) by("jobs").replaceChildren();
  by("jobs").append(...page.jobs.map(jobLine));
  if (!by("jobs").children.length) by("jobs").append(element("li", "none yet"));
  oldest = page.next;
  by("older").hidden = !oldest;
}

function showBooks(books) {
  by("job-title").textContent = `Job ${books.job}`;
  by("books").textContent = sentence(books);
  by("progress").max = Math.max(books.total, 1);
  by("progress").value = books.done + books.failed + books.skipped;
  by("zip").href = place.zip(books.job);
  by("zip").hidden = !books.done;
  by("cancel").hidden = OVER.includes(books.state);
  by("delete").hidden = !OVER.includes(books.state);
  by("retry").hidden = books.state !== "finished" || !books.failed;
  document.querySelector(`#jobs [data-job="${CSS.escape(books.job)}"]`)?.replaceWith(jobLine(books));
}

function card(item, place_) {
  const line = element("li", "", item.state);
  const button = element("button");
  button.type = "button";
  button.disabled = item.state !== "done";
  const stage = element("span", "", "stage");
  if (item.state === "done") {
    const image = element("img");
    image.alt = "";
    image.loading = "lazy";
    image.src = place.preview(shown, item.index, "result", SIDE);
    stage.append(image);
  }
  const name = element("span", `${item.source} `, "name");
  name.append(element("span", item.code ?? item.state, "state"));
  name.append(...item.flags.map((flag) => element("span", flag, "flag")));
  button.append(stage, name);
  button.addEventListener("click", () => {
    const done = items.filter(({ state }) => state === "done");
    view(shown, done, done.indexOf(items[place_]));
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
  by("failures").querySelector("tbody").replaceChildren(...rows);
  by("failures").hidden = !rows.length;
}

async function showItems() {
  const job = shown;
  const page = await api.items(job, 0, limit);
  if (job !== shown) return;
  const cards = by("gallery").children;
  page.items.forEach((item, at) => {
    const before = items[at];
    if (before?.state === item.state && cards[at]) return; // what somebody looks at stays as it is
    items[at] = item;
    const fresh = card(item, at);
    if (cards[at]) cards[at].replaceWith(fresh);
    else by("gallery").append(fresh);
  });
  items = page.items;
  by("more").hidden = page.next === null;
  showFailures(items.filter(({ state }) => state === "failed"));
}

async function show(job) {
  stream?.close();
  shown = job;
  items = [];
  limit = ITEMS;
  by("gallery").replaceChildren();
  by("job").hidden = !job;
  for (const link of document.querySelectorAll("#jobs a")) {
    link.toggleAttribute("aria-current", link.hash === `#${job}`);
  }
  if (!job) return;
  try {
    await update(await api.job(job));
  } catch (error) {
    by("job").hidden = true;
    throw error;
  }
  follow(job);
}

async function update(books) {
  showBooks(books);
  await showItems();
}

function follow(job) {
  stream = api.events(job);
  stream.addEventListener("books", (event) => update(JSON.parse(event.data)).catch(complain));
  stream.addEventListener("over", (event) => {
    stream.close();
    update(JSON.parse(event.data)).catch(complain);
    say("");
  });
}

// Sending

async function take(files) {
  if (!files.length) return;
  by("refused").replaceChildren();
  by("sending").hidden = false;
  by("sending").value = 0;
  say(`sending ${files.length} images`);
  const wishes = {
    preset: by("preset").value,
    model: by("model").value,
    format: by("format").value,
  };
  const job = await sendAll(files, wishes, {
    waiting: (error) => say(error.message),
    refused: (name, error) => by("refused").append(element("li", `${name}: ${error.message}`)),
    sent: (count, total) => {
      by("sending").max = total;
      by("sending").value = count;
      say(`sent ${count} of ${total} images`);
    },
  }).finally(() => {
    by("sending").hidden = true;
  });
  if (!job) return say("no image was taken", true);
  say(`job ${job.job} has begun`);
  await listJobs();
  location.hash = job.job;
}

async function change(work) {
  const job = shown;
  try {
    await work(job);
    if (job === shown) await show(job);
  } catch (error) {
    complain(error);
  }
}

async function forget() {
  await api.remove(shown);
  location.hash = "";
  await listJobs();
}

for (const id of ["files", "folder"]) {
  by(id).addEventListener("change", (event) => {
    const files = chosen(event.target.files);
    event.target.value = "";
    take(files).catch(complain);
  });
}
for (const id of ["preset", "model", "format"]) {
  by(id).addEventListener("change", (event) => localStorage.setItem(id, event.target.value));
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  by("drop").classList.add("over");
});
document.addEventListener("dragleave", () => by("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  by("drop").classList.remove("over");
  dropped(event.dataTransfer).then(take).catch(complain);
});
by("cancel").addEventListener("click", () => change((job) => api.change(job, "cancel")));
by("retry").addEventListener("click", () => change((job) => api.change(job, "retry")));
by("delete").addEventListener("click", () => forget().catch(complain));
by("more").addEventListener("click", () => {
  limit += ITEMS;
  showItems().catch(complain);
});
by("older").addEventListener("click", () => listJobs(true).catch(complain));
by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api
    .visit(by("key").value)
    .then(() => by("key-dialog").close())
    .then(start)
    .catch((error) => (by("key-message").textContent = error.message));
});
addEventListener("hashchange", () => show(decodeURIComponent(location.hash.slice(1))).catch(complain));

start().catch(complain);
