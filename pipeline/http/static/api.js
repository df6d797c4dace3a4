// Requests to the server. URLs are relative, so that a proxy may serve the page below a folder.

const RETRY = 5; // seconds, if the server names none

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = problem.code;
  }
}

async function request(path, options = {}) {
  const response = await fetch(path, options).catch(() => {
    throw new ApiError(0, { detail: "The server cannot be reached. Check the connection." });
  });
  if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => ({})));
  return response.status === 204 ? null : response.json();
}

function post(path, body = null) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

// A request of its own kind: fetch does not say how much of a body is sent.
function sendFile(path, file, name, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("files", file, name);
    const http = new XMLHttpRequest();
    http.open("POST", path);
    http.responseType = "json";
    http.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    http.addEventListener("error", () => reject(new ApiError(0, { detail: "The connection was lost." })));
    http.addEventListener("abort", () => reject(signal.reason));
    http.addEventListener("load", () =>
      http.status < 300 ? resolve(http.response) : reject(new ApiError(http.status, http.response ?? {})),
    );
    signal.addEventListener("abort", () => http.abort());
    http.send(form);
  });
}

/** Repeats `send` while the server's queue is full; `onFull` hears of it. */
async function retryWhileFull(send, onFull, signal) {
  for (;;) {
    signal.throwIfAborted();
    try {
      return await send();
    } catch (error) {
      if (error.status !== 429) throw error;
      onFull();
      await new Promise((resolve) => setTimeout(resolve, RETRY * 1000));
    }
  }
}

const jobUrl = (job) => `v1/jobs/${encodeURIComponent(job)}`;

export const api = {
  options: () => request("v1/options"),
  beginSession: (key) => post("v1/session", { key }),
  jobs: (after) => request(`v1/jobs?limit=12${after ? `&after=${encodeURIComponent(after)}` : ""}`),
  job: (job) => request(jobUrl(job)),
  items: (job, start, limit) => request(`${jobUrl(job)}/items?start=${start}&limit=${limit}`),
  cancel: (job) => post(`${jobUrl(job)}/cancel`),
  retry: (job) => post(`${jobUrl(job)}/retry`),
  remove: (job) => request(jobUrl(job), { method: "DELETE", keepalive: true }),
  events: (job) => new EventSource(`${jobUrl(job)}/events`),
  createJob: (body) => post("v1/jobs", body),
};

/** The requests of an upload, which wait while the queue is full. */
export function uploadApi(onFull, signal) {
  const wait = (send) => retryWhileFull(send, onFull, signal);
  return {
    create: () => wait(() => request("v1/uploads", { method: "POST" })),
    add: (upload, file, name, onProgress) =>
      wait(() => sendFile(`v1/uploads/${upload}/files`, file, name, onProgress, signal)),
    createJob: (body) => wait(() => api.createJob(body)),
  };
}

export const urls = {
  zip: (job) => `${jobUrl(job)}/results.zip`,
  result: (job, index) => `${jobUrl(job)}/items/${index}/result`,
  /** @param {"source" | "result" | "mask"} of */
  preview: (job, index, of, side) => `${jobUrl(job)}/items/${index}/preview?of=${of}&side=${side}`,
};
