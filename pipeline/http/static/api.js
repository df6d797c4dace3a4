// Requests to the server. URLs are relative, so that a proxy may serve the page below a folder.

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `status ${status}`);
    this.status = status;
    this.code = problem.code;
  }
}

async function request(path, options = {}) {
  const response = await fetch(path, options);
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new ApiError(response.status, problem);
  }
  return response.status === 204 ? null : response.json();
}

function post(path, body) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

// Retries while the server's queue is full.
async function retryWhileFull(send, onFull) {
  for (;;) {
    try {
      return await send();
    } catch (error) {
      if (error.status !== 429) throw error;
      onFull(error);
      await new Promise((resolve) => setTimeout(resolve, 5000));
    }
  }
}

const jobUrl = (job) => `v1/jobs/${encodeURIComponent(job)}`;

export const api = {
  options: () => request("v1/options"),
  beginSession: (key) => post("v1/session", { key }),
  jobs: (after) => request(`v1/jobs?limit=20${after ? `&after=${encodeURIComponent(after)}` : ""}`),
  job: (job) => request(jobUrl(job)),
  items: (job, start, limit) => request(`${jobUrl(job)}/items?start=${start}&limit=${limit}`),
  change: (job, verb) => request(`${jobUrl(job)}/${verb}`, { method: "POST" }),
  remove: (job) => request(jobUrl(job), { method: "DELETE" }),
  events: (job) => new EventSource(`${jobUrl(job)}/events`),
  createUpload: (onFull) => retryWhileFull(() => request("v1/uploads", { method: "POST" }), onFull),
  createJob: (options, onFull) => retryWhileFull(() => post("v1/jobs", options), onFull),
  addFile: (upload, file, name, onFull) =>
    retryWhileFull(() => {
      const form = new FormData();
      form.append("files", file, name);
      return request(`v1/uploads/${upload}/files`, { method: "POST", body: form });
    }, onFull),
};

export const urls = {
  zip: (job) => `${jobUrl(job)}/results.zip`,
  result: (job, index) => `${jobUrl(job)}/items/${index}/result`,
  preview: (job, index, of, side) => `${jobUrl(job)}/items/${index}/preview?of=${of}&side=${side}`,
};
