// node stable_canvas.mjs HOST:PORT PHOTO < GRAPH: one prompt by @stable-canvas/comfyui-client, twice:
// waited for at the websocket, and polled. What it got is the last line on stderr.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { text } from "node:stream/consumers";

const [server, photo] = process.argv.slice(2);
// Installed where the command runs, not beside this file.
const require = createRequire(`${process.cwd()}/`);
const { Client } = require("@stable-canvas/comfyui-client");

const graph = JSON.parse(await text(process.stdin));
const client = new Client({ api_host: server, WebSocket: require("ws") });
client.connect();
await new Promise((resolve) => client.once("status", resolve));
const image = new Blob([await readFile(photo)]);
const form = new FormData();
form.append("image", image, basename(photo));
const uploaded = await (await client.fetchApi("/upload/image", { method: "POST", body: form })).json();
graph["1"].inputs.image = uploaded.name;
const heard = await client.enqueue(graph);
const polled = await client.enqueue_polling(graph);
console.error(
  JSON.stringify({
    heard: heard.images.map(({ data }) => data),
    polled: polled.images.map(({ data }) => data),
    settings: await client.getSettings(),
    users: await client.getUserConfig(),
  }),
);
process.exit(0);
