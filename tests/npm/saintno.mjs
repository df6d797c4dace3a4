// node saintno.mjs HOST:PORT PHOTO < GRAPH: one prompt by @saintno/comfyui-sdk.
// Which of its callbacks ran, with what, is the last line on stderr.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { text } from "node:stream/consumers";

const [server, photo] = process.argv.slice(2);
// Installed where the command runs, not beside this file.
const require = createRequire(`${process.cwd()}/`);
const { CallWrapper, ComfyApi, PromptBuilder } = require("@saintno/comfyui-sdk");

const graph = JSON.parse(await text(process.stdin));
const api = new ComfyApi(`http://${server}`, `tests-${process.pid}`);
await api.init(3).waitForReady();
const uploaded = await api.uploadImage(await readFile(photo), basename(photo), { override: true });
const mask = await api.uploadMask(await readFile(photo), { filename: basename(photo), type: "input" });
graph["1"].inputs.image = uploaded.info.filename;
const builder = new PromptBuilder(graph, ["photo"], ["cutout"]).setOutputNode("cutout", "5");
const calls = [];
await new CallWrapper(api, builder)
  .onPending(() => calls.push("pending"))
  .onStart(() => calls.push("start"))
  .onOutput((key) => calls.push(`output ${key}`))
  .onFinished((outputs) => calls.push(`finished ${outputs.cutout.images.length}`))
  .onFailed((error) => calls.push(`failed ${error}`))
  .run();
await new Promise((resolve) => setTimeout(resolve, 1000)); // for a second end
console.error(
  JSON.stringify({
    calls,
    mask: mask && mask.info.name,
    settings: await api.getSettings(),
    users: await api.getUserConfig(),
    files: await api.listUserData("workflows"),
  }),
);
process.exit(0);
