// What the page asks of the server. Addresses are relative, so that a proxy may put it in a folder.

export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `status ${status}`);
    this.status = status;
    this.code = problem.code;
  }
}

export async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refusal(answer.status, problem);
  }
  return answer.status === 204 ? null : answer.json();
}

function send(path, body) {
  return ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

// Waits as long as the server says while its queue is full.
async function patiently(work, wait) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (error.status !== 429) throw error;
      wait(error);
      await new Promise((resume) => setTimeout(resume, 5000));
    }
  }
}

export const api = {
  choices: () => ask("v1/choices"),
  visit: (key) => send("v1/visit", { key }),
  jobs: (after) => ask(`v1/jobs?limit=20${after ? `&after=${encodeURIComponent(after)}` : ""}`),
  job: (job) => ask(`v1/jobs/${encodeURIComponent(job)}`),
  items: (job, start, limit) => ask(`v1/jobs/${encodeURIComponent(job)}/items?start=${start}&limit=${limit}`),
  change: (job, verb) => ask(`v1/jobs/${encodeURIComponent(job)}/${verb}`, { method: "POST" }),
  remove: (job) => ask(`v1/jobs/${encodeURIComponent(job)}`, { method: "DELETE" }),
  events: (job) => new EventSource(`v1/jobs/${encodeURIComponent(job)}/events`),
  upload: (wait) => patiently(() => ask("v1/uploads", { method: "POST" }), wait),
  create: (wishes, wait) => patiently(() => send("v1/jobs", wishes), wait),
  add: (upload, file, name, wait) =>
    patiently(() => {
      const form = new FormData();
      form.append("files", file, name);
      return ask(`v1/uploads/${upload}/files`, { method: "POST", body: form });
    }, wait),
};

export const place = {
  zip: (job) => `v1/jobs/${encodeURIComponent(job)}/results.zip`,
  result: (job, index) => `v1/jobs/${encodeURIComponent(job)}/items/${index}/result`,
  preview: (job, index, of, side) =>
    `v1/jobs/${encodeURIComponent(job)}/items/${index}/preview?of=${of}&side=${side}`,
};
