// A cutout on a background, as a file or on the clipboard.

const QUALITY = 0.95;

/**
 * @typedef {import("./viewer.js").Background} Background
 * @typedef {import("./viewer.js").Picture & {result: string, target: string}} Result
 *   `result` is the URL of the file, `target` its name
 */

/** Downloads the server's file, or a JPEG if a background was chosen. */
export async function download({ result, full, cutout, target }, background) {
  if (background.kind === "checks") return save(result, target);
  const blob = await draw(full ?? cutout, background, "image/jpeg");
  const url = URL.createObjectURL(blob);
  save(url, `${target.replace(/\.[^.]+$/, "")}.jpg`);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Copies the picture as PNG; returns what to say. */
export async function copy({ full, cutout }, background) {
  if (!navigator.clipboard?.write) throw new Error("The browser copies only on HTTPS pages. Download it instead.");
  // A promise: Safari wants the clipboard asked in the same moment as the click.
  const png = draw(full ?? cutout, background, "image/png");
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
  } catch (error) {
    throw new Error("The browser did not allow it. Download it instead.", { cause: error });
  }
  return "Copied.";
}

function save(url, name) {
  const link = document.createElement("a");
  link.href = url;
  link.download = name.split("/").pop();
  link.click();
}

async function draw(url, background, type) {
  const image = await load(url);
  const canvas = document.createElement("canvas");
  const width = (canvas.width = image.naturalWidth);
  const height = (canvas.height = image.naturalHeight);
  const context = canvas.getContext("2d");
  if (background.kind === "color") {
    context.fillStyle = background.value;
    context.fillRect(0, 0, width, height);
  } else if (background.kind === "image") {
    const behind = await load(background.value);
    const scale = Math.max(width / behind.naturalWidth, height / behind.naturalHeight);
    const [w, h] = [behind.naturalWidth * scale, behind.naturalHeight * scale];
    context.drawImage(behind, (width - w) / 2, (height - h) / 2, w, h);
  }
  context.drawImage(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, type, QUALITY));
}

async function load(url) {
  const image = new Image();
  image.src = url;
  await image.decode().catch(() => {
    throw new Error("The picture did not load. Try again.");
  });
  return image;
}
