// Zoom and pan of a stage by wheel, pinch, drag and double click.

const MOST = 12;
const SWIPE = 60; // pixels

/** Sets the properties --scale, --x and --y of `stage`; a drag at full view is a swipe. */
export class Zoom {
  /**
   * @param {HTMLElement} stage
   * @param {{onZoom: (scale: number) => void, onSwipe: (direction: 1 | -1) => void}} listeners
   */
  constructor(stage, { onZoom, onSwipe }) {
    this.stage = stage;
    this.onZoom = onZoom;
    this.onSwipe = onSwipe;
    this.pointers = new Map();
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("dblclick", (event) => this.#toggle(event));
    stage.addEventListener("pointerdown", (event) => this.#press(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const type of ["pointerup", "pointercancel"]) {
      stage.addEventListener(type, (event) => this.#release(event));
    }
    this.reset();
  }

  reset() {
    this.scale = 1;
    this.x = this.y = 0;
    this.#apply();
  }

  /** Zooms by `factor` about a point of the window; by default the middle of the stage. */
  by(factor, point = null) {
    const box = this.stage.getBoundingClientRect();
    const left = (point?.x ?? box.x + box.width / 2) - box.x - box.width / 2;
    const top = (point?.y ?? box.y + box.height / 2) - box.y - box.height / 2;
    const scale = Math.min(Math.max(this.scale * factor, 1), MOST);
    const grown = scale / this.scale;
    this.x = left - (left - this.x) * grown;
    this.y = top - (top - this.y) * grown;
    this.scale = scale;
    this.#apply();
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.#apply();
  }

  #apply() {
    const room = this.scale - 1;
    const clamp = (value, most) => Math.min(Math.max(value, -most), most);
    this.x = clamp(this.x, (this.stage.clientWidth * room) / 2);
    this.y = clamp(this.y, (this.stage.clientHeight * room) / 2);
    this.stage.style.setProperty("--scale", String(this.scale));
    this.stage.style.setProperty("--x", `${this.x}px`);
    this.stage.style.setProperty("--y", `${this.y}px`);
    this.stage.classList.toggle("zoomed", this.scale > 1);
    this.onZoom(this.scale);
  }

  #wheel(event) {
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), event);
  }

  #toggle(event) {
    if (this.dragged || event.target.closest("button, input")) return;
    if (this.scale > 1) this.reset();
    else this.by(3, event);
  }

  #press(event) {
    if (event.target.closest("button, input") || event.button > 0) return;
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.start = this.pointers.size === 1 ? event : null; // two fingers do not swipe
    this.dragged = false;
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.dragged ||= Math.hypot(event.x - before.x, event.y - before.y) > 3;
    if (other) {
      const gap = (one) => Math.hypot(one.x - other.x, one.y - other.y);
      this.by(gap(event) / Math.max(gap(before), 1), { x: (event.x + other.x) / 2, y: (event.y + other.y) / 2 });
    } else if (this.scale > 1) this.pan(event.x - before.x, event.y - before.y);
  }

  #release(event) {
    const wasPressed = this.pointers.delete(event.pointerId);
    if (!wasPressed || !this.start || this.scale > 1 || event.type === "pointercancel") return;
    const moved = event.x - this.start.x;
    if (Math.abs(moved) > SWIPE && Math.abs(moved) > Math.abs(event.y - this.start.y)) {
      this.onSwipe(moved < 0 ? 1 : -1);
    }
  }
}
