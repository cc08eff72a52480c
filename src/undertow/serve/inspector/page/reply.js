/** One reply: what the guard said, the text as it comes, and the curve of both beliefs. */

import { Curve } from "./curve.js";
import { make } from "./dom.js";
import { badge } from "./verdict.js";

const ENDINGS = {
  stop: "The reply has ended.",
  length: "The reply was cut off at its token limit.",
  content_filter: "Refused by the guard.",
  time: "The reply was cut off at the server's time limit.",
  error: "The reply broke off.",
};

export class Reply {
  /**
   * @param {HTMLElement} article
   * @param {string} name
   */
  constructor(article, name) {
    this.article = article;
    this.head = make("p", { class: "reply-head", text: "\u00a0" });
    const attributes = { tabindex: 0, role: "region", "aria-label": `The ${name} reply` };
    this.text = make("div", { class: "reply-text", attributes });
    this.status = make("p", { class: "note reply-status", attributes: { role: "status" }, text: "\u00a0" });
    this.curve = new Curve(name);
    this.name = name;
    article.append(this.head, this.text, this.status, this.curve.element);
  }

  clear() {
    this.head.textContent = "\u00a0";
    this.text.replaceChildren();
    this.text.classList.remove("failed");
    this.status.textContent = "\u00a0";
    this.curve.clear();
  }

  /** @param {string} sentence on why there is none */
  fail(sentence) {
    this.article.removeAttribute("aria-busy");
    this.text.classList.add("failed");
    this.text.textContent = sentence;
    this.status.textContent = "\u00a0";
  }

  /**
   * @param {import("./api.js").Api} api
   * @param {any} wanted
   * @param {AbortSignal} signal
   */
  async run(api, wanted, signal) {
    this.clear();
    this.article.setAttribute("aria-busy", "true");
    this.status.textContent = "Waiting for the first token \u2026";
    try {
      await api.reply(wanted, signal, (event) => this.take(event));
    } catch (error) {
      if (!signal.aborted) throw error;
      this.status.textContent = "Stopped.";
    } finally {
      this.article.removeAttribute("aria-busy");
    }
  }

  /** @param {import("./api.js").Wire} event */
  take(event) {
    if (event.type === "judged") {
      const steered = this.name === "steered" && event.verdict.action !== "refused";
      const quadrant = `${event.verdict.quadrant || "not judged"}${steered ? ", read under the steering" : ""}`;
      this.head.replaceChildren(badge(event.verdict), ` ${quadrant}`);
      this.why = event.words.at(-1);
    } else if (event.type === "piece") {
      this.text.append(event.text);
      this.text.scrollTop = this.text.scrollHeight;
    } else if (event.type === "belief") {
      this.curve.add(event);
      this.status.textContent = `${event.index + 1} tokens \u2026`;
    } else if (event.type === "ended") {
      this.end(event);
    }
  }

  /** @param {import("./api.js").Wire} event */
  end(event) {
    const said = ENDINGS[/** @type {keyof typeof ENDINGS} */ (event.reason)] || event.reason;
    const refused = event.reason === "content_filter";
    this.status.textContent = refused ? event.message || this.why : `${said} ${event.tokens} tokens.`;
    if (event.reason === "error" && event.message) this.fail(event.message);
    if (refused && event.message && !this.text.textContent) this.text.textContent = "Nothing was generated.";
  }
}
