/** The conversation as it is typed: an optional system message, then turns, the last one the user's. */

import { make } from "./dom.js";

const NAMES = { system: "System", user: "User", assistant: "Assistant" };

export class Conversation {
  /**
   * @param {HTMLElement} list
   * @param {() => void} onChange
   */
  constructor(list, onChange) {
    this.list = list;
    this.onChange = onChange;
    this.count = 1;
    for (const item of list.querySelectorAll("li")) this.watch(item);
  }

  /**
   * @param {"system" | "user" | "assistant"} role
   * @param {string} [text]
   * @returns {HTMLTextAreaElement}
   */
  add(role, text = "") {
    const area = /** @type {HTMLTextAreaElement} */ (make("textarea", { attributes: { rows: 3, spellcheck: true } }));
    area.value = text;
    if (role === "user") area.placeholder = "What a user would ask";
    const head = make("div", { class: "turn-head" });
    const label = make("label", { text: NAMES[role] });
    this.count += 1;
    area.id = `turn-${this.count}`;
    label.setAttribute("for", area.id);
    const remove = make("button", {
      class: "quiet",
      text: "Remove",
      attributes: { type: "button", "aria-label": `Remove this ${role} message` },
    });
    head.append(label, remove);
    const item = make("li", { class: `turn ${role}`, attributes: { "data-role": role } }, head, area);
    this.watch(item);
    if (role === "system") this.list.prepend(item);
    else this.list.append(item);
    this.changed();
    return area;
  }

  /** @param {HTMLElement} item one turn */
  watch(item) {
    item.querySelector("textarea")?.addEventListener("input", () => this.onChange());
    item.querySelector("button")?.addEventListener("click", () => {
      item.remove();
      this.changed();
      this.areas().at(-1)?.focus();
    });
  }

  /** Add a turn of whoever has not spoken last. */
  addTurn() {
    const roles = this.messages().map((turn) => turn.role);
    const next = roles.at(-1) === "user" ? "assistant" : "user";
    this.add(next).focus();
    // A conversation ends with a user message, so an answer brings its question along.
    if (next === "assistant") this.add("user");
  }

  /** Add the system message, or go to the one that is there. */
  addSystem() {
    const there = /** @type {HTMLTextAreaElement | null} */ (this.list.querySelector(".system textarea"));
    (there || this.add("system")).focus();
  }

  /** @returns {HTMLTextAreaElement[]} */
  areas() {
    return [...this.list.querySelectorAll("textarea")];
  }

  /** @param {string} text for the last user message */
  write(text) {
    const users = /** @type {NodeListOf<HTMLTextAreaElement>} */ (this.list.querySelectorAll(".user textarea"));
    const area = [...users].at(-1);
    if (!area) return;
    area.value = text;
    area.focus();
    this.onChange();
  }

  /** @returns {import("./api.js").Turn[]} */
  messages() {
    return [...this.list.children].map((item) => ({
      role: /** @type {any} */ (item.getAttribute("data-role")),
      content: item.querySelector("textarea")?.value || "",
    }));
  }

  /** @returns {string} what keeps it from being run; empty where nothing does */
  problem() {
    const turns = this.messages();
    const last = turns.at(-1);
    if (!last || last.role !== "user") return "The conversation must end with a user message: add a turn.";
    if (!last.content.trim()) return "The last user message is empty: type a request.";
    return "";
  }

  changed() {
    const users = this.list.querySelectorAll(".user");
    for (const item of this.list.querySelectorAll(".turn")) {
      const button = item.querySelector("button");
      if (button) button.hidden = item.classList.contains("user") && users.length === 1;
    }
    this.onChange();
  }
}
