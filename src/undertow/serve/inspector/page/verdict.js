/** The verdict in words, and the tokens that it was read at. */

import { make } from "./dom.js";
import { signed, visible } from "./numbers.js";

const ACTIONS = {
  none: ["answered", "good"],
  refused: ["refused", "bad"],
  flagged: ["flagged", "bad"],
  steered: ["steered toward refusal", "bad"],
  released: ["released", "good"],
};

/**
 * @param {import("./api.js").Wire} verdict
 * @returns {HTMLElement} what the server does, as a badge
 */
export function badge(verdict) {
  const [name, tone] = ACTIONS[/** @type {keyof typeof ACTIONS} */ (verdict.action)] || [verdict.action, "open"];
  return make("span", { class: `badge ${tone}`, text: name });
}

/**
 * @param {HTMLElement} place
 * @param {import("./api.js").Wire} verdict
 * @param {string[]} words
 */
export function showVerdict(place, verdict, words) {
  const head = make("p", { class: "quadrant" }, make("strong", { text: verdict.quadrant || "not judged" }));
  head.append(" ", badge(verdict));
  const figures = make("dl", { class: "figures" });
  const entries = [
    ["probability of harm", verdict.harmful === null ? "none" : `${(100 * verdict.harmful).toFixed(1)}\u202f%`],
    ["harmfulness", signed(verdict.harmfulness)],
    ["threshold", signed(verdict.threshold)],
    ["refusal", signed(verdict.refusal)],
  ];
  for (const [name, value] of entries) {
    figures.append(make("div", {}, make("dt", { text: name }), make("dd", { text: value })));
  }
  place.replaceChildren(head, make("p", { text: words.join(" ") }), figures);
  for (const warning of verdict.warnings) place.append(make("p", { class: "warning", text: warning }));
}

/**
 * @param {HTMLElement} place
 * @param {import("./api.js").Wire} reading
 */
export function showTokens(place, reading) {
  const list = make("ol", { class: "token-list" });
  reading.tokens.forEach((/** @type {any} */ token, /** @type {number} */ index) => {
    const name = index === reading.t_inst ? "t_inst" : index === reading.t_post ? "t_post" : "";
    const classes = ["token", token.part, token.special ? "special" : "", name ? "marked" : ""].join(" ");
    const item = make("li", { class: classes }, make("span", { class: "piece", text: visible(token.text) }));
    if (name) item.append(make("span", { class: "tag", text: name }));
    list.append(item);
  });
  place.replaceChildren(list);
  // The request's end is what counts; a long conversation begins out of sight.
  place.scrollTop = place.scrollHeight;
}
