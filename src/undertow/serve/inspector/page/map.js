/** The plane of both beliefs: the guard's held-out prompts, its thresholds, and the prompt that was read. */

import { draw, make, oncePerFrame } from "./dom.js";
import { plain, signed, ticks } from "./numbers.js";

const HEIGHT = 410;
const ROOM = { left: 40, right: 12, top: 12, bottom: 40 };
const CORNERS = [
  ["harmless, about to be refused", 0, 0],
  ["harmful, refused", 1, 0],
  ["harmless, answered", 0, 1],
  ["harmful, about to be answered", 1, 1],
];
const KINDS = [
  { name: "harmful, refused", class: "harmful-refused", harmful: true, refused: true },
  { name: "harmful, answered", class: "harmful-answered", harmful: true, refused: false },
  { name: "harmless, answered", class: "harmless-answered", harmful: false, refused: false },
  { name: "harmless, refused", class: "harmless-refused", harmful: false, refused: true },
];

export class BeliefMap {
  /**
   * @param {HTMLElement} place
   * @param {HTMLElement} legend
   * @param {HTMLElement} readout
   * @param {import("./api.js").Wire} about
   */
  constructor(place, legend, readout, about) {
    this.place = place;
    this.readout = readout;
    this.about = about;
    this.points = points(about.belief_map);
    /** @type {import("./api.js").Wire | null} */
    this.verdict = null;
    this.flat = !about.reads.refusal;
    this.redraw = oncePerFrame(() => this.paint());
    new ResizeObserver(this.redraw).observe(place);
    showLegend(legend, this.points);
    this.describe();
    this.redraw();
  }

  /** @param {import("./api.js").Wire} verdict */
  show(verdict) {
    this.verdict = verdict;
    this.describe();
    this.redraw();
  }

  describe() {
    const counts = KINDS.map((kind) => [this.points.filter((point) => point.kind === kind).length, kind.name]);
    const clusters = counts.filter(([count]) => count).map(([count, name]) => `${count} ${name}`).join("; ");
    const verdict = this.verdict;
    let prompt = "Nothing read yet.";
    if (verdict) {
      prompt = verdict.judged
        ? `Your prompt: harmfulness ${signed(verdict.harmfulness)}, refusal ${signed(verdict.refusal)}: ${verdict.quadrant}`
        : "Your prompt was not judged, so it has no place on the map.";
      this.readout.textContent = prompt;
    }
    this.place.setAttribute("aria-label", `Belief map. Held-out prompts: ${clusters || "none kept"}. ${prompt}`);
  }

  paint() {
    const width = Math.max(240, this.place.clientWidth);
    const { across, along } = this.axes(width);
    const picture = draw("svg", {
      attributes: { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
    });
    this.frame(picture, width, across, along);
    const corners = picture.querySelectorAll(".corner");
    for (const point of this.points) {
      picture.append(mark(point.kind.class, across.at(point.harmfulness), along.at(this.height(point))));
    }
    // The quadrants' names stay readable where points lie beneath them.
    picture.append(...corners);
    if (this.verdict && this.verdict.judged) this.ring(picture, width, across, along);
    this.place.replaceChildren(picture);
  }

  /** @param {number} width */
  axes(width) {
    const verdict = this.verdict && this.verdict.judged ? [this.verdict] : [];
    const x = [this.about.threshold, ...this.points.map((point) => point.harmfulness)];
    const y = [0, ...this.points.map((point) => this.height(point))];
    return {
      across: axis([...x, ...verdict.map((one) => one.harmfulness)], ROOM.left, width - ROOM.right, 0.1),
      along: axis([...y, ...verdict.map((one) => one.refusal ?? 0)], HEIGHT - ROOM.bottom, ROOM.top, 0.2),
    };
  }

  /** @param {any} point @returns {number} a guard without a belief of refusal parts them by what the model did */
  height(point) {
    return this.flat ? (point.kind.refused ? 1 : -1) : point.refusal;
  }

  /**
   * @param {SVGElement} picture
   * @param {number} width
   * @param {Axis} across
   * @param {Axis} along
   */
  frame(picture, width, across, along) {
    const right = width - ROOM.right;
    const bottom = HEIGHT - ROOM.bottom;
    for (const value of ticks(across.low, across.high, width / 90)) {
      const x = across.at(value);
      picture.append(line("grid", x, ROOM.top, x, bottom), label("tick", plain(value), x, bottom + 16, "middle"));
    }
    for (const value of this.flat ? [] : ticks(along.low, along.high, 6)) {
      const y = along.at(value);
      picture.append(line("grid", ROOM.left, y, right, y), label("tick", plain(value), ROOM.left - 6, y + 4, "end"));
    }
    const x = across.at(this.about.threshold);
    const y = along.at(0);
    picture.append(line("threshold", x, ROOM.top, x, bottom), line("threshold", ROOM.left, y, right, y));
    for (const [name, side, half] of CORNERS) {
      const anchor = side ? "end" : "start";
      const [first, second] = String(name).split(", ");
      const place = side ? right - 5 : ROOM.left + 5;
      const top = half ? bottom - 20 : ROOM.top + 13;
      picture.append(label("corner", `${first},`, place, top, anchor), label("corner", second, place, top + 14, anchor));
    }
    picture.append(
      label("axis", "belief of harmfulness at t_inst \u2192", right, HEIGHT - 6, "end"),
      label("axis", this.flat ? "no belief of refusal" : "refusal at t_post \u2191", 2, HEIGHT - 6, "start"),
    );
  }

  /**
   * @param {SVGElement} picture
   * @param {number} width
   * @param {Axis} across
   * @param {Axis} along
   */
  ring(picture, width, across, along) {
    const verdict = /** @type {import("./api.js").Wire} */ (this.verdict);
    const x = across.at(verdict.harmfulness);
    const y = along.at(verdict.refusal ?? 0);
    const left = x > width / 2;
    picture.append(
      line("cross", x, y - 16, x, y + 16),
      line("cross", x - 16, y, x + 16, y),
      draw("circle", { class: "halo", attributes: { cx: x, cy: y, r: 9 } }),
      draw("circle", { class: "ring", attributes: { cx: x, cy: y, r: 9 } }),
      label("yours", "your prompt", left ? x - 20 : x + 20, y - 10, left ? "end" : "start"),
    );
  }
}

/**
 * @typedef {{low: number, high: number, at: (value: number) => number}} Axis
 * @param {number[]} values
 * @param {number} from pixel
 * @param {number} to pixel
 * @param {number} share left free at either end
 * @returns {Axis}
 */
function axis(values, from, to, share) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || 1) * share;
  const begin = low - room;
  const span = high - low + 2 * room;
  return { low: begin, high: begin + span, at: (value) => from + ((value - begin) / span) * (to - from) };
}

/** @param {import("./api.js").Wire | null} map */
function points(map) {
  if (!map) return [];
  return map.harmfulness.map((/** @type {number} */ harmfulness, /** @type {number} */ index) => ({
    harmfulness,
    refusal: map.refusal ? map.refusal[index] : 0,
    kind: KINDS.find((kind) => kind.harmful === map.harmful[index] && kind.refused === map.refused[index]) || KINDS[0],
  }));
}

/**
 * Colour and shape tell the same, so that neither is needed.
 * @param {string} kind
 * @param {number} x
 * @param {number} y
 */
function mark(kind, x, y) {
  const shapes = {
    "harmful-refused": `M${x - 3.5} ${y}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0`,
    "harmful-answered": `M${x} ${y - 4.5}l4.5 4.5l-4.5 4.5l-4.5 -4.5z`,
    "harmless-answered": `M${x - 3.3} ${y - 3.3}h6.6v6.6h-6.6z`,
    "harmless-refused": `M${x} ${y - 4.5}l4.3 7.6h-8.6z`,
  };
  return draw("path", { class: `mark ${kind}`, attributes: { d: shapes[/** @type {keyof typeof shapes} */ (kind)] } });
}

/**
 * @param {HTMLElement} place
 * @param {any[]} found
 */
function showLegend(place, found) {
  const entries = KINDS.map((kind) => {
    const count = found.filter((point) => point.kind === kind).length;
    const sample = draw("svg", { attributes: { width: 12, height: 12, "aria-hidden": "true" } }, mark(kind.class, 6, 6));
    return make("span", {}, sample, make("span", { text: `${kind.name} (${count})` }));
  });
  place.replaceChildren(...entries);
}

/**
 * @param {string} kind
 * @param {number} x1
 * @param {number} y1
 * @param {number} x2
 * @param {number} y2
 */
function line(kind, x1, y1, x2, y2) {
  return draw("line", { class: kind, attributes: { x1, y1, x2, y2 } });
}

/**
 * @param {string} kind
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} anchor
 */
function label(kind, text, x, y, anchor) {
  return draw("text", { class: kind, text, attributes: { x, y, "text-anchor": anchor } });
}
