/** Both beliefs over the tokens of a reply, drawn while it is generated. */

import { draw, make, oncePerFrame } from "./dom.js";
import { plain, signed, visible } from "./numbers.js";

const HEIGHT = 160;
const ROOM = { left: 30, right: 8, top: 8, bottom: 20 };
const LINES = ["harmfulness", "refusal"];
const FARTHEST = 6;

export class Curve {
  /** @param {string} name of the reply */
  constructor(name) {
    this.name = name;
    /** @type {any[]} */
    this.beliefs = [];
    /** @type {number | null} */
    this.cursor = null;
    const attributes = { tabindex: 0, role: "application", "aria-roledescription": "curve", "aria-label": "" };
    this.surface = make("div", { class: "curve", attributes });
    this.readout = make("p", { class: "readout", attributes: { "aria-live": "polite" }, text: "\u00a0" });
    const legend = make("p", { class: "legend" });
    for (const line of LINES) {
      const sample = draw("svg", { attributes: { width: 22, height: 8, "aria-hidden": "true" } });
      sample.append(draw("path", { class: `line ${line}`, attributes: { d: "M1 4H21" } }));
      legend.append(make("span", {}, sample, make("span", { text: line })));
    }
    this.element = make("div", { class: "curve-box" }, legend, this.surface, this.readout);
    this.redraw = oncePerFrame(() => this.paint());
    new ResizeObserver(this.redraw).observe(this.surface);
    this.surface.addEventListener("pointermove", (event) => this.point(event));
    this.surface.addEventListener("pointerleave", () => this.move(null));
    this.surface.addEventListener("keydown", (event) => this.key(event));
    this.surface.addEventListener("blur", () => this.move(null));
    this.clear();
  }

  clear() {
    this.beliefs = [];
    this.cursor = null;
    this.readout.textContent = "\u00a0";
    this.redraw();
  }

  /** @param {any} belief one event of the reply */
  add(belief) {
    this.beliefs.push(belief);
    this.redraw();
  }

  /** @param {PointerEvent} event */
  point(event) {
    const box = this.surface.getBoundingClientRect();
    const inner = box.width - ROOM.left - ROOM.right;
    const share = (event.clientX - box.left - ROOM.left) / inner;
    this.move(Math.round(share * Math.max(1, this.beliefs.length - 1)));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    const step = event.key === "ArrowRight" ? 1 : -1;
    this.move(this.cursor === null ? 0 : this.cursor + step);
  }

  /** @param {number | null} to */
  move(to) {
    if (!this.beliefs.length) return;
    this.cursor = to === null ? null : Math.min(Math.max(to, 0), this.beliefs.length - 1);
    const belief = this.cursor === null ? null : this.beliefs[this.cursor];
    this.readout.textContent = belief
      ? `token ${belief.index} \u201c${visible(belief.token)}\u201d: ${LINES.map((line) => `${line} ${signed(belief[line])}`).join(", ")}`
      : "\u00a0";
    this.redraw();
  }

  paint() {
    const width = Math.max(200, this.surface.clientWidth);
    const values = this.beliefs.flatMap((belief) => LINES.map((line) => Math.abs(belief[line] ?? 0)));
    const top = Math.min(FARTHEST, Math.max(1.5, ...values) * 1.08);
    const right = width - ROOM.right;
    const bottom = HEIGHT - ROOM.bottom;
    const across = (/** @type {number} */ index) =>
      ROOM.left + ((right - ROOM.left) * index) / Math.max(1, this.beliefs.length - 1);
    const along = (/** @type {number} */ value) =>
      ROOM.top + ((bottom - ROOM.top) * (top - Math.min(top, Math.max(-top, value)))) / (2 * top);
    const picture = draw("svg", {
      attributes: { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
    });
    for (const value of [-1, 0, 1]) {
      const y = along(value);
      picture.append(
        draw("line", { class: value ? "grid" : "threshold", attributes: { x1: ROOM.left, y1: y, x2: right, y2: y } }),
        draw("text", {
          class: "tick",
          text: value > 0 ? `+${value}` : plain(value),
          attributes: { x: ROOM.left - 5, y: y + 4, "text-anchor": "end" },
        }),
      );
    }
    picture.append(
      draw("text", { class: "axis", text: "reply tokens \u2192", attributes: { x: right, y: HEIGHT - 4, "text-anchor": "end" } }),
    );
    for (const line of LINES) {
      const d = path(this.beliefs, line, across, along);
      if (d) picture.append(draw("path", { class: `line ${line}`, attributes: { d } }));
      if (this.beliefs.length === 1 && this.beliefs[0][line] !== null) {
        const attributes = { cx: across(0), cy: along(this.beliefs[0][line]), r: 3 };
        picture.append(draw("circle", { class: `dot ${line}`, attributes }));
      }
    }
    if (this.cursor !== null) {
      const x = across(this.cursor);
      picture.append(draw("line", { class: "cross", attributes: { x1: x, y1: ROOM.top, x2: x, y2: bottom } }));
    }
    this.surface.replaceChildren(picture);
    this.surface.setAttribute("aria-label", this.words());
  }

  words() {
    if (!this.beliefs.length) return `Beliefs over the ${this.name} reply, none yet.`;
    const ends = LINES.map(
      (line) => `${line} from ${signed(this.beliefs[0][line])} to ${signed(this.beliefs.at(-1)[line])}`,
    );
    return `Beliefs over the ${this.beliefs.length} tokens of the ${this.name} reply: ${ends.join(", ")}. Left and right arrow keys read out each token.`;
  }
}

/**
 * @param {any[]} beliefs
 * @param {string} line
 * @param {(index: number) => number} across
 * @param {(value: number) => number} along
 * @returns {string} with a gap wherever a value cannot be told
 */
function path(beliefs, line, across, along) {
  let drawn = "";
  let open = false;
  beliefs.forEach((belief, index) => {
    const value = belief[line];
    if (value === null) {
      open = false;
      return;
    }
    drawn += `${open ? "L" : "M"}${across(index).toFixed(1)} ${along(value).toFixed(1)}`;
    open = true;
  });
  return drawn;
}
