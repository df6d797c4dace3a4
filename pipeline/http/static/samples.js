// Photos with their cutouts, which the bundled model made, to try the viewer on.

const buttons = [...document.querySelectorAll("[data-sample]")];

const pictures = buttons.map(({ dataset: { sample }, title }) => ({
  name: title,
  source: `page/sample-${sample}.webp`,
  cutout: `page/sample-${sample}-cutout.webp`,
  result: `page/sample-${sample}-cutout.webp`,
  target: `${sample}-cutout.webp`,
  flags: [],
}));

/** @param {import("./viewer.js").Viewer} viewer */
export function openSamplesIn(viewer) {
  buttons.forEach((button, at) =>
    button.addEventListener("click", () => viewer.open(pictures, at, () => buttons[viewer.at])),
  );
}
