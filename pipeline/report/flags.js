// What each flag means, and what to do about it.

/** @type {Record<string, {title: string, advice: string}>} */
export const FLAGS = {
  "no-subject": {
    title: "No subject found",
    advice: "Nothing stands out from the background. Crop closer, or redo it with another model.",
  },
  "nearly-full": {
    title: "Almost nothing removed",
    advice: "The subject fills the frame. If there is background left, redo it with another model.",
  },
  "touches-border": {
    title: "Cut off by the frame",
    advice: "The subject reaches the edge of the photo. Check that edge for leftover background.",
  },
  "many-pieces": {
    title: "Several pieces",
    advice: "The cutout has more parts than usual. Check for leftovers of the background.",
  },
  "low-confidence": {
    title: "Unsure result",
    advice: "The model could not decide what the subject is. Compare with the original, or redo it.",
  },
  "soft-everywhere": {
    title: "See-through subject",
    advice: "Most of it is half transparent. Fine for glass or smoke; otherwise redo it.",
  },
  "filled-hole": {
    title: "A hole was closed",
    advice: "Check the gaps, such as handles. The preset “raw” leaves them open.",
  },
  "more-frames": {
    title: "Only the first frame",
    advice: "The file has several frames or pages. Save the others as files of their own.",
  },
  "low-score": {
    title: "Low score",
    advice: "The shape is probably wrong somewhere. Compare with the original, or redo it with another model.",
  },
};

/** Returns title and advice of a flag; a flag of a newer server is its own title. */
export function explainFlag(flag) {
  return FLAGS[flag] ?? { title: flag, advice: "" };
}
