// Words for counts, times, names and errors.

/** Why an image failed, and what to do about it, by the server's code. */
const ERRORS = {
  E_EMPTY: ["The file is empty", "Export it again."],
  E_NOT_IMAGE: ["Not an image", "This file is not a picture that can be read."],
  E_TRUNCATED: ["The file is damaged", "Part of it is missing. Copy or export it again."],
  E_UNSUPPORTED: ["This kind of image is not supported", "Save it as JPEG, PNG or TIFF."],
  E_TOO_LARGE: ["Too large for this server", "Scale it down, or split it."],
  E_MISSING: ["The photo is gone", "Choose it again."],
  E_ACCESS: ["The photo cannot be read", "The server lacks the permission."],
  E_TARGET: ["The name cannot be used", "Rename the file."],
  E_STORAGE: ["The storage failed", "Try it again."],
  E_DEVICE: ["The device ran out of memory or failed", "Try it again."],
  E_TIMEOUT: ["It took too long", "Try it again, or scale it down."],
  E_WORKER_LOST: ["The worker stopped", "Try it again."],
  E_INTERNAL: ["Something went wrong", "Try it again."],
  "too-many-files": ["Too many photos at once", "Send the rest separately."],
};

/** Returns title and advice for an error of an image. */
export function explainError(code, detail) {
  const [title, advice] = ERRORS[code] ?? ["It failed", detail ?? ""];
  return { title, advice };
}

const numbers = new Intl.NumberFormat("en");
const PRESETS = {
  balanced: "Any subject",
  products: "Crisp edges for goods",
  portraits: "Soft edges that keep hair",
  catalogue: "Square, white, with a shadow",
  raw: "As the model made it",
};
const FORMATS = {
  png: "PNG, transparent",
  webp: "WebP, transparent, small",
  avif: "AVIF, transparent, smallest",
  jpeg: "JPEG, on a background",
  mask: "Only the mask, as PNG",
  zip: "Color and mask in a ZIP",
};

export const describePreset = (name) => PRESETS[name] ?? "A preset of this server";
export const describeFormat = (name) => FORMATS[name] ?? name;
export const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const count = (number) => numbers.format(number);
export const photos = (number) => `${count(number)} ${number === 1 ? "photo" : "photos"}`;

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.ceil(seconds))} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** @param {number} unixTime */
export function moment(unixTime) {
  const date = new Date(unixTime * 1000);
  const time = date.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000);
  if (days < 2) return `${days ? "yesterday" : "today"} ${time}`;
  return date.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

/** The title of a job: its folder, or its first photo. `first` is the name of that photo, if known. */
export function titleOf(source, first, total) {
  const folder = first?.includes("/") ? first.split("/")[0] : "";
  if (folder) return folder;
  if (first) return total > 1 ? `${first} + ${count(total - 1)} more` : first;
  return source.startsWith("upload:") ? photos(total) : source.replace(/\/+$/, "").split("/").pop();
}

/** The counts of a job that has ended: "118 done · 1 to check · 1 failed". */
export function outcome({ state, done, skipped, failed, flagged }, refused = 0) {
  const parts = [`${count(done)} done`];
  if (state === "cancelled") parts.unshift("stopped");
  if (skipped) parts.push(`${count(skipped)} up to date`);
  if (flagged) parts.push(`${count(flagged)} to check`);
  if (failed) parts.push(`${count(failed)} failed`);
  if (refused) parts.push(`${count(refused)} refused`);
  return parts.join(" · ");
}

/** The counts of a job at work: "34 of 120 done · 4.1 images/s · 21 s left". */
export function progress({ total, done, skipped, failed, queued, running, images_per_second: speed }) {
  const parts = [`${count(done + skipped + failed)} of ${count(total)} done`];
  if (speed > 0) {
    parts.push(`${speed < 10 ? speed.toFixed(1) : Math.round(speed)} images/s`);
    if (queued + running) parts.push(`${duration((queued + running) / speed)} left`);
  }
  return parts.join(" · ");
}
