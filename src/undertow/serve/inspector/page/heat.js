/** Two heat strips over the same tokens, one a belief; states run upward, tokens to the right. */

import { find, make, oncePerFrame } from "./dom.js";
import { signed, visible } from "./numbers.js";
import { colours, mixed } from "./colours.js";

const HEIGHT = 182;
const LABELS = 38;
const NARROWEST = { few: 20, many: 13 };
const MANY = 100;
const NUMBERS_FROM = { width: 36, height: 15 };
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class Heat {
  /**
   * @param {HTMLElement} place
   * @param {import("./api.js").Wire} about
   */
  constructor(place, about) {
    this.place = place;
    this.about = about;
    /** @type {import("./api.js").Wire | null} */
    this.reading = null;
    /** @type {{token: number, state: number} | null} */
    this.cursor = null;
    this.names = about.directions.map((/** @type {any} */ direction) => direction.name);
    this.readout = make("p", { class: "readout", attributes: { "aria-live": "polite" }, text: "\u00a0" });
    this.tags = make("div", { class: "heat-tags" });
    this.head = make("div", { class: "heat-tokens", attributes: { "aria-hidden": "true" } });
    this.grid = make("div", { class: "heat-grid" }, this.tags, this.head);
    /** @type {Map<string, HTMLCanvasElement>} */
    this.canvases = new Map();
    this.names.forEach((/** @type {string} */ name) => this.grid.append(this.strip(name)));
    this.scroller = make("div", { class: "heat-scroll" }, this.grid);
    place.replaceChildren(scale(), this.readout, this.scroller);
    if (!this.names.length) {
      place.replaceChildren(
        make("p", { class: "empty", text: "This guard was saved without directions; fit it again to see the strips." }),
      );
    }
    this.redraw = oncePerFrame(() => this.paint());
    new ResizeObserver(this.redraw).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.redraw);
    find("heat-table").addEventListener("toggle", () => this.fillTables());
    this.redraw();
  }

  /** @param {import("./api.js").Wire} reading */
  show(reading) {
    this.reading = reading;
    this.cursor = null;
    this.readout.textContent = "\u00a0";
    this.paint();
    // Both beliefs are read at the prompt's end.
    this.scroller.scrollLeft = this.scroller.scrollWidth;
    this.fillTables();
  }

  /**
   * @param {string} name
   * @returns {HTMLElement}
   */
  strip(name) {
    const canvas = /** @type {HTMLCanvasElement} */ (make("canvas"));
    this.canvases.set(name, canvas);
    const attributes = {
      tabindex: 0,
      role: "application",
      "aria-roledescription": "heat strip",
      "aria-label": `Belief of ${name}, state by token. Arrow keys move from cell to cell and read them out; the same numbers stand in the table below.`,
    };
    const surface = make("div", { class: "surface", attributes }, canvas);
    surface.addEventListener("pointermove", (event) => this.point(event, canvas));
    surface.addEventListener("pointerdown", (event) => this.point(event, canvas));
    surface.addEventListener("pointerleave", () => this.move(null));
    surface.addEventListener("keydown", (event) => this.key(event, name));
    surface.addEventListener("focus", () => this.cursor || this.move(this.start(name)));
    surface.addEventListener("blur", () => this.move(null));
    const labels = make("div", { class: "state-labels", attributes: { "aria-hidden": "true" } });
    return make(
      "div",
      { class: "strip", attributes: { "data-name": name } },
      make("h3", {}, make("span", { text: `Belief of ${name}` })),
      make("div", { class: "strip-body" }, labels, surface),
    );
  }

  /** @param {string} name */
  start(name) {
    if (!this.reading) return null;
    const read = this.about.reads[name] || this.about.reads.harmfulness;
    return { token: this.reading[read.position], state: read.states.at(-1) };
  }

  /**
   * @param {PointerEvent} event
   * @param {HTMLCanvasElement} canvas
   */
  point(event, canvas) {
    if (!this.reading) return;
    const box = canvas.getBoundingClientRect();
    const across = Math.floor(((event.clientX - box.left) / box.width) * this.reading.tokens.length);
    const down = Math.floor(((event.clientY - box.top) / box.height) * this.reading.states.length);
    this.move({ token: across, state: this.reading.states.length - 1 - down });
  }

  /**
   * @param {KeyboardEvent} event
   * @param {string} name
   */
  key(event, name) {
    const step = MOVES[/** @type {keyof typeof MOVES} */ (event.key)];
    if (!step || !this.reading) return;
    event.preventDefault();
    const from = this.cursor || this.start(name);
    if (!from) return;
    this.move({ token: from.token + step[0], state: from.state + step[1] });
    this.head.children[this.cursor ? this.cursor.token : 0]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** @param {{token: number, state: number} | null} to */
  move(to) {
    const reading = this.reading;
    if (!reading) return;
    this.cursor = to && {
      token: Math.min(Math.max(to.token, 0), reading.tokens.length - 1),
      state: Math.min(Math.max(to.state, 0), reading.states.length - 1),
    };
    this.readout.textContent = this.cursor ? this.words(this.cursor) : "\u00a0";
    this.redraw();
  }

  /** @param {{token: number, state: number}} cell */
  words(cell) {
    const reading = /** @type {import("./api.js").Wire} */ (this.reading);
    const values = this.names.map(
      (/** @type {string} */ name) => `${name} ${signed(reading.heat[name][cell.state][cell.token])}`,
    );
    const where = [cell.token === reading.t_inst ? "t_inst" : "", cell.token === reading.t_post ? "t_post" : ""];
    const mark = where.filter(Boolean).join(", ");
    const token = `token ${cell.token} \u201c${visible(reading.tokens[cell.token].text)}\u201d`;
    return `${token}${mark ? ` (${mark})` : ""}, state ${cell.state}: ${values.join(", ")}`;
  }

  paint() {
    const count = this.reading ? this.reading.tokens.length : 24;
    const room = this.place.clientWidth - LABELS - 1;
    const width = Math.max(count > MANY ? NARROWEST.many : NARROWEST.few, room / count);
    this.grid.style.setProperty("--labels", `${LABELS}px`);
    this.grid.style.setProperty("--tokens", String(count));
    this.grid.style.width = `${LABELS + width * count}px`;
    this.paintHead();
    for (const name of this.names) this.paintStrip(name, width, count);
  }

  paintHead() {
    const reading = this.reading;
    if (!reading || this.shown === reading) return;
    this.shown = reading;
    this.head.replaceChildren(
      ...reading.tokens.map((/** @type {any} */ token, /** @type {number} */ index) => {
        const marked = index === reading.t_inst || index === reading.t_post;
        const text = visible(token.text);
        const cut = text.length > 13 ? `${text.slice(0, 12)}\u2026` : text;
        const classes = `${marked ? "marked " : ""}${token.special ? "special" : ""}`;
        return make("div", { class: classes }, make("span", { text: cut }));
      }),
    );
    const tag = (/** @type {string} */ name, /** @type {number} */ index) => {
      const element = make("span", { class: "tag", text: name });
      element.style.right = `${(100 * (reading.tokens.length - 1 - index)) / reading.tokens.length}%`;
      return make("div", { class: "tag-line" }, element);
    };
    this.tags.replaceChildren(tag("t_inst", reading.t_inst), tag("t_post", reading.t_post));
  }

  /**
   * @param {string} name
   * @param {number} width of a column
   * @param {number} count of columns
   */
  paintStrip(name, width, count) {
    const canvas = /** @type {HTMLCanvasElement} */ (this.canvases.get(name));
    const rows = this.about.layers + 1;
    const height = HEIGHT / rows;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * count * ratio);
    canvas.height = Math.round(HEIGHT * ratio);
    canvas.style.width = `${width * count}px`;
    canvas.style.height = `${HEIGHT}px`;
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    const paint = colours();
    const gap = height > 6 ? 1 : 0;
    const numbers = width >= NUMBERS_FROM.width && height >= NUMBERS_FROM.height;
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let state = 0; state < rows; state++) {
      for (let token = 0; token < count; token++) {
        const value = this.reading ? this.reading.heat[name][state][token] : null;
        const left = token * width;
        const top = (rows - 1 - state) * height;
        pen.fillStyle = mixed(value, paint);
        pen.fillRect(left, top, width - gap, height - gap);
        if (numbers && this.reading) {
          pen.fillStyle = value !== null && Math.abs(value) > 0.75 ? paint.onStrong : paint.ink;
          pen.fillText(value === null ? "\u2013" : signed(value, 1), left + width / 2, top + height / 2);
        }
      }
    }
    if (this.reading) this.frames(pen, name, width, height, rows, paint);
    this.labelStates(canvas, rows, height);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {string} name
   * @param {number} width
   * @param {number} height
   * @param {number} rows
   * @param {any} paint
   */
  frames(pen, name, width, height, rows, paint) {
    const reading = /** @type {import("./api.js").Wire} */ (this.reading);
    const frame = (/** @type {number} */ token, /** @type {number} */ state, /** @type {number} */ line) => {
      pen.lineWidth = line;
      pen.strokeRect(token * width + 0.5, (rows - 1 - state) * height + 0.5, width - 2, Math.max(2, height - 2));
    };
    pen.strokeStyle = paint.ink;
    const read = this.about.reads[name];
    if (read) {
      pen.setLineDash([]);
      for (const state of read.states) frame(reading[read.position], state, 2.5);
    }
    if (this.cursor) {
      pen.setLineDash([3, 2]);
      frame(this.cursor.token, this.cursor.state, 2);
      pen.setLineDash([]);
    }
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} rows
   * @param {number} height
   */
  labelStates(canvas, rows, height) {
    const labels = /** @type {HTMLElement} */ (canvas.parentElement?.previousElementSibling);
    if (labels.childElementCount) return;
    const step = Math.max(1, Math.ceil(14 / height));
    for (let state = 0; state < rows; state += step) {
      const label = make("span", { text: String(state) });
      label.style.top = `${(rows - 1 - state + 0.5) * height}px`;
      labels.append(label);
    }
  }

  fillTables() {
    const place = find("heat-tables");
    const reading = this.reading;
    if (!find("heat-table").open || !reading) return place.replaceChildren();
    const tables = this.names.map((/** @type {string} */ name) => {
      const table = make("table", {}, make("caption", { text: `Belief of ${name}` }));
      const head = make("tr", {}, make("th", { text: "token", attributes: { scope: "col" } }));
      reading.states.forEach((/** @type {number} */ state) =>
        head.append(make("th", { class: "number", text: `state ${state}`, attributes: { scope: "col" } })),
      );
      table.append(make("thead", {}, head));
      const body = make("tbody");
      reading.tokens.forEach((/** @type {any} */ token, /** @type {number} */ index) => {
        const row = make("tr", {}, make("th", { text: `${index} ${visible(token.text)}`, attributes: { scope: "row" } }));
        reading.states.forEach((/** @type {number} */ state) =>
          row.append(make("td", { class: "number", text: signed(reading.heat[name][state][index]) })),
        );
        body.append(row);
      });
      table.append(body);
      const label = { tabindex: 0, role: "region", "aria-label": `Table of the belief of ${name}` };
      return make("div", { class: "table-scroll", attributes: label }, table);
    });
    place.replaceChildren(...tables);
  }
}

/** @returns {HTMLElement} what the colours mean */
function scale() {
  return make(
    "div",
    { class: "scale" },
    make("span", { text: "\u22121 harmless, answered" }),
    make("span", { class: "ramp", attributes: { "aria-hidden": "true" } }),
    make("span", { text: "+1 harmful, refused" }),
  );
}
