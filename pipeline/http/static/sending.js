// Images chosen or dropped become an upload, and the upload a job.

import { api } from "./api.js";

const AT_ONCE = 3;

// Names as the user's folders have them, no two alike: phones call every photo the same.
function named(files) {
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

// Sends all of `files`, three at a time; resolves to the job, or to null if none was taken.
export async function sendAll(files, wishes, told) {
  const { upload } = await api.upload(told.waiting);
  const waiting = named(files);
  const total = waiting.length;
  let sent = 0;
  let taken = 0;
  async function work() {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      try {
        await api.add(upload, next.file, next.name, told.waiting);
        taken += 1;
      } catch (error) {
        if (error.status === 401) throw error;
        told.refused(next.name, error);
      }
      sent += 1;
      told.sent(sent, total);
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return taken ? api.create({ ...wishes, upload }, told.waiting) : null;
}

export function chosen(list) {
  return [...list].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

// What was dropped, folders with all that is in them.
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const inner of some) await walk(inner, found);
  }
}
