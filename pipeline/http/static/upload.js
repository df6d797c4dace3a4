// Chosen, dropped or pasted photos become an upload, and the upload a job.

import { uploadApi } from "./api.js";

const CONCURRENCY = 3;

/**
 * @typedef {{file: File, name: string}} Photo `name` includes the folder
 *
 * @typedef {object} Listeners
 * @property {(photo: Photo, share: number) => void} onProgress share sent, 0 to 1
 * @property {(photo: Photo, key: string) => void} onSent key: the server's name of it
 * @property {(photo: Photo, error: Error) => void} onRefused
 * @property {() => void} onFull the server is busy; sending goes on later
 */

/** @returns {Photo[]} */
export function chosenFiles(list) {
  return inOrder([...list].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
}

/** Returns the dropped photos, and those in dropped folders. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosenFiles(transfer.files);
  const photos = [];
  for (const entry of entries) await collect(entry, photos);
  return inOrder(photos);
}

async function collect(entry, photos) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    photos.push({ file, name: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return;
    for (const inner of entries) await collect(inner, photos);
  }
}

/** Numbers equal names, which phones reuse, and sorts as the server lists them. */
function inOrder(photos) {
  const taken = new Set();
  const distinct = photos.map(({ file, name }) => {
    let free = name;
    for (let number = 2; taken.has(free); number += 1) free = name.replace(/(\.[^./]*)?$/, `-${number}$1`);
    taken.add(free);
    return { file, name: free };
  });
  return distinct.sort((one, other) => (one.name < other.name ? -1 : 1));
}

/**
 * Sends the photos and submits them; resolves to the job, or to null if the server refused every photo.
 * @param {Photo[]} photos
 * @param {Record<string, any>} options preset, model and format
 * @param {Listeners} listeners
 * @param {AbortSignal} signal
 */
export async function submitPhotos(photos, options, listeners, signal) {
  const server = uploadApi(listeners.onFull, signal);
  const { upload } = await server.create();
  const waiting = [...photos];
  let accepted = 0;
  async function sendNext() {
    for (let photo = waiting.shift(); photo; photo = waiting.shift()) {
      try {
        const { files } = await server.add(upload, photo.file, photo.name, (share) => listeners.onProgress(photo, share));
        accepted += 1;
        listeners.onSent(photo, files[0]);
      } catch (error) {
        if (error.status === 401 || error.status === 0 || signal.aborted) throw error;
        listeners.onRefused(photo, error);
      }
    }
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, sendNext));
  return accepted ? server.createJob({ ...options, upload }) : null;
}
