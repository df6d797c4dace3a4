// Removes a background through ComfyUI's interface: in a browser, and in Node 18 or newer.

/**
 * Returns the cutout of a photo as {blob, filename}. Throws an Error with the server's message.
 *
 * `workflow` is a graph in API format, `photo` a Blob, `name` its file name. `key` is an API key.
 */
export async function removeBackground(server, workflow, photo, name, { key = "", signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const call = async (path, options = {}) => {
    const response = await fetch(server + path, { signal, ...options, headers: { ...headers, ...options.headers } });
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response;
  };

  const form = new FormData();
  form.append("image", photo, name);
  const uploaded = await (await call("/upload/image", { method: "POST", body: form })).json();

  const graph = structuredClone(workflow);
  for (const node of Object.values(graph)) {
    if (node.class_type === "LoadImage") {
      node.inputs.image = [uploaded.subfolder, uploaded.name].filter(Boolean).join("/");
    }
  }
  const posted = await call("/prompt", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ prompt: graph }),
  });
  const { prompt_id: id } = await posted.json();

  let entry;
  while (!(entry = (await (await call(`/history/${id}`)).json())[id])) {
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  if (entry.status.status_str !== "success") {
    const error = entry.status.messages.find(([kind]) => kind === "execution_error")?.[1];
    throw new Error(error ? `${error.exception_type}: ${error.exception_message}` : "interrupted");
  }

  const saved = Object.values(entry.outputs)
    .flatMap((output) => output.images)
    .find((image) => image.type === "output");
  const blob = await (await call(`/view?${new URLSearchParams(saved)}`)).blob();
  return { blob, filename: saved.filename };
}
