// Chosen or dropped images become an upload, and the upload a job.

import { api } from "./api.js";

const CONCURRENCY = 3;

// Returns the files with distinct names, numbered where needed: phones reuse names.
function withDistinctNames(files) {
  const taken = new Set();
  return files.map(({ file, path }) => {
    let name = path;
    for (let number = 2; taken.has(name); number += 1) {
      name = path.replace(/(\.[^./]*)?$/, `-${number}$1`);
    }
    taken.add(name);
    return { file, name };
  });
}

// Sends all files; resolves to the job, or to null if the server refused every file.
export async function submitFiles(files, options, { onFull, onRefused, onSent }) {
  const { upload } = await api.createUpload(onFull);
  const waiting = withDistinctNames(files);
  const total = waiting.length;
  let sent = 0;
  let accepted = 0;
  async function sendNext() {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      try {
        await api.addFile(upload, next.file, next.name, onFull);
        accepted += 1;
      } catch (error) {
        if (error.status === 401) throw error;
        onRefused(next.name, error);
      }
      sent += 1;
      onSent(sent, total);
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, sendNext));
  return accepted ? api.createJob({ ...options, upload }, onFull) : null;
}

export function chosenFiles(list) {
  return [...list].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

// Returns the dropped files, and those in dropped folders.
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosenFiles(transfer.files);
  const files = [];
  for (const entry of entries) await collect(entry, files);
  return files;
}

async function collect(entry, files) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    files.push({ file, path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return;
    for (const inner of entries) await collect(inner, files);
  }
}
