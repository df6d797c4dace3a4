// The choices of a job: preset, model and format.

import { make } from "./dom.js";
import { capitalize, describeFormat, describePreset } from "./texts.js";

const DEMO = "birefnet-nano";
const BEST = "birefnet-general"; // what the setting "auto" prefers

/** Whether a job without a chosen model would get the demo model. */
export function hasOnlyDemo({ models, model }) {
  const here = models.filter((each) => each.here).map(({ name }) => name);
  return model === DEMO || (model === "auto" && !here.includes(BEST));
}

/** Returns the name of the preset with these values, if it has one. */
export function presetName(presets, values) {
  const text = JSON.stringify(values);
  return Object.keys(presets).find((name) => JSON.stringify(presets[name]) === text) ?? "";
}

/** Form fields in `container`; `id` distinguishes them from those of other containers. */
export class OptionFields {
  /** @param {() => void} onChange */
  constructor(container, id, onChange = () => {}) {
    this.container = container;
    this.id = id;
    container.addEventListener("change", onChange);
  }

  /** @param {{preset?: string, model?: string, format?: string}} chosen */
  fill(options, chosen = {}) {
    const names = Object.keys(options.presets);
    const preset = names.includes(chosen.preset) ? chosen.preset : options.preset;
    this.model = this.#select("Model", [
      { value: "", text: "Best on this server" },
      ...options.models.map(({ name, summary, here }) => ({
        value: name,
        text: here ? `${name}: ${summary}` : `${name} (not on this server)`,
        disabled: !here,
      })),
    ], chosen.model ?? "");
    const formats = options.formats.map((value) => ({ value, text: describeFormat(value) }));
    this.format = this.#select("Format", formats, chosen.format ?? "png");
    this.container.replaceChildren(
      make("fieldset", { class: "presets" }, make("legend", {}, "Preset"), ...names.map((name) => this.#choice(name, name === preset))),
      this.#field("Model", this.model),
      this.#field("Format", this.format),
    );
  }

  get value() {
    const preset = this.container.querySelector("input:checked")?.value ?? "";
    return { preset, model: this.model?.value ?? "", format: this.format?.value ?? "png" };
  }

  #choice(name, checked) {
    const radio = make("input", { type: "radio", name: `${this.id}-preset`, value: name, checked });
    return make("label", { class: "choice" }, radio, make("b", {}, capitalize(name)), make("small", {}, describePreset(name)));
  }

  #field(label, select) {
    return make("label", { class: "field" }, label, select);
  }

  #select(label, choices, value) {
    const select = make("select", { id: `${this.id}-${label.toLowerCase()}` },
      ...choices.map(({ text, ...rest }) => make("option", rest, text)));
    select.value = value;
    if (select.selectedIndex < 0 || select.selectedOptions[0].disabled) select.selectedIndex = 0;
    return select;
  }
}
