// A short message at the bottom of the window, with one action at most.

import { byId, make } from "./dom.js";

const SECONDS = 7;
let timer = 0;
let pending = () => {};

/**
 * @param {string} text
 * @param {{label: string, run: () => void} | null} action
 * @param {() => void} onGone runs when the message goes away without the action
 */
export function toast(text, action = null, onGone = () => {}) {
  dismiss();
  const button = action && make("button", { type: "button", class: "button", on: { click: act } }, action.label);
  byId("toast").replaceChildren(make("span", {}, text), ...(button ? [button] : []));
  byId("toast").dataset.shown = "true";
  pending = onGone;
  timer = setTimeout(dismiss, SECONDS * 1000);
  function act() {
    pending = () => {};
    dismiss();
    action.run();
  }
}

/** Takes the message away, as its time would. */
export function dismiss() {
  clearTimeout(timer);
  delete byId("toast").dataset.shown;
  byId("toast").replaceChildren();
  const run = pending;
  pending = () => {};
  run();
}
