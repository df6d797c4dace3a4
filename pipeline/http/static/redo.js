// The dialog that makes cutouts of a job's photos once more, with other options.

import { api } from "./api.js";
import { byId } from "./dom.js";
import { OptionFields, presetName } from "./options.js";
import { photos } from "./texts.js";

const dialog = byId("redo-dialog");
const fields = new OptionFields(byId("redo-fields"), "redo");
let again = null; // what to redo

/**
 * @param {object} options of the server
 * @param {object} summary of the job
 * @param {string} name of the only photo to redo; empty: all
 */
export function openRedo(options, summary, name = "") {
  again = { upload: summary.source.replace(/^upload:/, ""), ...(name && { include: [escapePattern(name)] }) };
  byId("redo-title").textContent = `Redo ${name || photos(summary.total)}`;
  byId("redo-error").textContent = "";
  fields.fill(options, { preset: presetName(options.presets, summary.preset), format: summary.format });
  dialog.showModal();
}

/** @param {(job: string) => void} onCreated */
export function onRedo(onCreated) {
  byId("redo-cancel").addEventListener("click", () => dialog.close());
  byId("redo-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const { job } = await api.createJob({ ...again, ...fields.value });
      dialog.close();
      onCreated(job);
    } catch (error) {
      byId("redo-error").textContent = error.message;
    }
  });
}

function escapePattern(name) {
  return name.replace(/[[*?]/g, "[$&]");
}
