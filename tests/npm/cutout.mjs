// node cutout.mjs HOST:PORT PHOTO FOLDER < GRAPH: one prompt by comfy-ui-client, its files into FOLDER.
// What it got is the last line on stderr.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { text } from "node:stream/consumers";

const [server, photo, folder] = process.argv.slice(2);
// Installed where the command runs, not beside this file.
const require = createRequire(`${process.cwd()}/`);
const { ComfyUIClient } = require("comfy-ui-client");

const graph = JSON.parse(await text(process.stdin));
const client = new ComfyUIClient(server, `tests-${process.pid}`);
await client.connect();
const { name } = await client.uploadImage(await readFile(photo), basename(photo), true);
graph["1"].inputs.image = name;
const images = await client.getImages(graph);
await client.saveImages(images, folder);
const history = await client.getHistory();
const stats = await client.getSystemStats();
const queue = await client.getQueue();
await client.disconnect();
// The client itself logs to stdout.
console.error(

  JSON.stringify({
    files: Object.values(images).flat().map(({ image }) => image),
    entries: Object.keys(history).length,
    system: stats.system.os,
    running: queue.queue_running.length,
  }),
);
