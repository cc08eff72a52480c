/** The sliders: which direction, at which state, how much, on which tokens. */

import { find, make } from "./dom.js";
import { signed } from "./numbers.js";

const SPANS = {
  instruction: "the instruction",
  tail: "the template's tail",
  prompt: "the whole prompt",
  generated: "the reply",
  all: "every token",
};

export class SteeringControls {
  /** @param {import("./api.js").Wire} about */
  constructor(about) {
    this.about = about;
    this.state = find("state");
    this.coefficient = find("coefficient");
    this.span = find("span");
    this.available = about.directions.length > 0;
    const choices = about.directions.map((/** @type {any} */ direction) => {
      const input = make("input", { attributes: { type: "radio", name: "direction", value: direction.name } });
      input.addEventListener("change", () => this.choose(direction));
      return make("label", { class: "choice" }, input, make("span", { text: direction.name }));
    });
    find("directions").replaceChildren(...choices);
    this.span.replaceChildren(
      ...about.spans.map((/** @type {keyof typeof SPANS} */ name) =>
        make("option", { text: SPANS[name] || name, attributes: { value: name } }),
      ),
    );
    this.coefficient.max = about.most_coefficient;
    this.coefficient.min = -about.most_coefficient;
    for (const slider of [this.state, this.coefficient]) {
      slider.addEventListener("input", () => this.describe());
      slider.disabled = !this.available;
    }
    this.span.disabled = !this.available;
    find("steer").disabled = !this.available;
    const first = about.directions.find((/** @type {any} */ one) => one.name === "refusal") || about.directions[0];
    if (!first) {
      find("steering-note").textContent = "This guard was saved without directions; fit it again to steer.";
      return;
    }
    /** @type {HTMLInputElement} */ (document.querySelector(`input[name=direction][value=${first.name}]`)).checked = true;
    this.choose(first);
  }

  /** @param {any} direction */
  choose(direction) {
    this.direction = direction;
    this.state.min = Math.min(...direction.states);
    this.state.max = Math.max(...direction.states);
    this.state.value = direction.state;
    this.span.value = direction.span;
    this.describe();
  }

  describe() {
    find("state-value").textContent = `${this.state.value} of ${this.about.layers}`;
    find("coefficient-value").textContent = `${signed(Number(this.coefficient.value))}\u00d7`;
    const [low, high] = this.direction.counts;
    const toward = this.direction.name === "refusal" ? ["answered", "refused"] : ["harmless", "harmful"];
    find("steering-note").textContent =
      `One unit of the coefficient is the whole way from the mean of ${low} ${toward[0]} prompts to that of ` +
      `${high} ${toward[1]} ones at that state, at ${this.direction.position}; a negative one leads back.`;
  }

  /** @returns {import("./api.js").Steering | null} */
  value() {
    if (!this.available) return null;
    return {
      direction: this.direction.name,
      state: Number(this.state.value),
      coefficient: Number(this.coefficient.value),
      span: this.span.value,
    };
  }
}
