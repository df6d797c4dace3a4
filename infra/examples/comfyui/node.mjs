// node node.mjs PHOTO [CUTOUT]: the cutout of one photo. COMFY_URL is the server, COMFY_KEY an API key.
import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";

import { removeBackground } from "./comfyui.mjs";

const [photo, cutout = "cutout.png"] = process.argv.slice(2);
const server = process.env.COMFY_URL ?? "http://127.0.0.1:8188";
const key = process.env.COMFY_KEY ?? "";
const workflow = JSON.parse(await readFile(new URL("production_bg_removal_api.json", import.meta.url)));

const result = await removeBackground(server, workflow, new Blob([await readFile(photo)]), basename(photo), { key });
await writeFile(cutout, Buffer.from(await result.blob.arrayBuffer()));
console.log(`${result.filename} -> ${cutout}`);
