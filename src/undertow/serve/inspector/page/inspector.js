/** The page: asks what is served, then reads, and generates twice, plain and steered. */

import { Api, AskError } from "./api.js";
import { Conversation } from "./conversation.js";
import { find, make } from "./dom.js";
import { Heat } from "./heat.js";
import { BeliefMap } from "./map.js";
import { stateRange } from "./numbers.js";
import { Reply } from "./reply.js";
import { SteeringControls } from "./steering.js";
import { showTokens, showVerdict } from "./verdict.js";

const CHOICES = {
  refuse: "refuse",
  flag: "answer and flag",
  steer: "steer to refusal",
  keep: "leave as they are",
  release: "steer to an answer",
};

class Inspector {
  constructor() {
    this.api = new Api();
    this.plain = new Reply(find("plain"), "plain");
    this.steered = new Reply(find("steered"), "steered");
    this.conversation = new Conversation(find("turns"), () => this.edited());
    this.running = new AbortController();
    /**
     * What the results on the page belong to.
     * @type {import("./api.js").Conversation | null}
     */
    this.shown = null;
    find("conversation").addEventListener("submit", (/** @type {Event} */ event) => this.submit(event, () => this.run()));
    find("steering").addEventListener("submit", (/** @type {Event} */ event) => this.submit(event, () => this.steer()));
    find("key-form").addEventListener("submit", (/** @type {Event} */ event) => this.submit(event, () => this.useKey()));
    find("stop").addEventListener("click", () => this.running.abort());
    find("add-turn").addEventListener("click", () => this.conversation.addTurn());
    find("add-system").addEventListener("click", () => this.conversation.addSystem());
    find("example").addEventListener("change", () => this.example());
    for (const id of ["on-harmful", "on-over-refusal"]) find(id).addEventListener("change", () => this.edited());
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("offline", () => this.say("This device is offline.", true));
    window.addEventListener("online", () => this.say("This device is online again."));
    this.start();
  }

  async start() {
    let about;
    try {
      about = await this.api.about();
    } catch (error) {
      if (error instanceof AskError && error.status === 401) find("connection").open = true;
      if (!this.about) find("about").textContent = "Nothing is known of the server yet.";
      return this.say(error instanceof Error ? error.message : String(error), true);
    }
    // Results and choices stay where the same is served still.
    if (JSON.stringify(about) === JSON.stringify(this.about)) return this.say("");
    this.about = about;
    this.shown = null;
    const states = stateRange(about.reads.harmfulness.states);
    const words = ` \u00b7 ${about.layers} blocks \u00b7 guard: ${about.rule}, ${states} at t_inst`;
    find("about").replaceChildren(make("strong", { text: about.model }), words);
    this.heat = new Heat(find("heat"), about);
    this.map = new BeliefMap(find("map"), find("map-legend"), find("map-readout"), about);
    this.controls = new SteeringControls(about);
    this.offer("on-harmful", about.choices.on_harmful, about.policy.on_harmful);
    this.offer("on-over-refusal", about.choices.on_over_refusal, about.policy.on_over_refusal);
    const tokens = find("reply-tokens");
    tokens.max = about.most_reply_tokens;
    tokens.value = Math.min(tokens.value, about.most_reply_tokens);
    find("run").disabled = false;
    this.say("");
  }

  /**
   * @param {string} id
   * @param {string[]} choices
   * @param {string} own
   */
  offer(id, choices, own) {
    const options = choices.map((name) => {
      const words = CHOICES[/** @type {keyof typeof CHOICES} */ (name)] || name;
      return make("option", { text: name === own ? `${words} (default)` : words, attributes: { value: name } });
    });
    find(id).replaceChildren(...options);
    find(id).disabled = choices.length < 2;
    find(id).title = choices.length < 2 ? "The server's operator allows nothing else." : "";
  }

  async run() {
    const problem = this.conversation.problem();
    if (problem) return this.say(problem, true);
    if (!find("reply-tokens").reportValidity()) return;
    await this.guarded(async (signal) => {
      this.say("Reading \u2026");
      const wanted = this.wanted();
      const reading = await this.api.read(wanted, signal);
      this.shown = wanted;
      showVerdict(find("verdict"), reading.verdict, reading.words);
      showTokens(find("tokens"), reading);
      this.heat?.show(reading);
      this.map?.show(reading.verdict);
      this.say(`Read ${reading.tokens.length} tokens; generating \u2026`);
      await this.replies([this.plain, this.steered], signal);
      this.say(`Read ${reading.tokens.length} tokens; both replies are done.`);
    });
  }

  async steer() {
    // Beside the plain reply to another conversation, or under another policy, a steered one would tell nothing.
    if (JSON.stringify(this.wanted()) !== JSON.stringify(this.shown)) return this.run();
    if (!find("reply-tokens").reportValidity()) return;
    await this.guarded(async (signal) => {
      this.say("Generating \u2026");
      await this.replies([this.steered], signal);
      this.say("The steered reply is done.");
    });
  }

  /**
   * @param {Reply[]} replies
   * @param {AbortSignal} signal
   */
  async replies(replies, signal) {
    const max = Number(find("reply-tokens").value);
    const each = replies.map(async (reply) => {
      const steering = reply === this.steered ? this.controls?.value() || null : null;
      if (reply === this.steered && !steering) {
        return reply.fail("This guard has no direction to steer along.");
      }
      try {
        await reply.run(this.api, { ...this.wanted(), steering, max_tokens: max }, signal);
      } catch (error) {
        reply.fail(error instanceof Error ? error.message : String(error));
        throw error;
      }
    });
    const failed = (await Promise.allSettled(each)).find((one) => one.status === "rejected");
    if (failed && failed.status === "rejected") throw failed.reason;
    signal.throwIfAborted();
  }

  edited() {
    const [shown, wanted] = [this.shown, this.wanted()];
    let note = "";
    if (shown && JSON.stringify(shown.messages) !== JSON.stringify(wanted.messages)) {
      note = "The results below belong to the conversation as it was: run it again.";
    } else if (shown && JSON.stringify(shown) !== JSON.stringify(wanted)) {
      note = "The results below came about under another policy: run it again.";
    }
    this.say(note);
  }

  /** @returns {import("./api.js").Conversation} */
  wanted() {
    return {
      messages: this.conversation.messages().filter((turn) => turn.role !== "system" || turn.content.trim()),
      on_harmful: find("on-harmful").value,
      on_over_refusal: find("on-over-refusal").value,
    };
  }

  /** @param {(signal: AbortSignal) => Promise<void>} action */
  async guarded(action) {
    this.running.abort();
    const running = new AbortController();
    this.running = running;
    this.busy(true);
    try {
      await action(running.signal);
    } catch (error) {
      if (this.running !== running) return;
      if (running.signal.aborted) this.say("Stopped.");
      else this.say(error instanceof Error ? error.message : String(error), true);
      if (error instanceof AskError && error.status === 401) find("connection").open = true;
    } finally {
      if (this.running === running) this.busy(false);
    }
  }

  /** @param {boolean} busy */
  busy(busy) {
    find("run").disabled = busy || !this.about;
    find("steer").disabled = busy || !this.controls?.available;
    find("stop").disabled = !busy;
    document.body.classList.toggle("busy", busy);
  }

  useKey() {
    const key = find("key").value.trim();
    if (/[^ -~]/.test(key)) return this.say("A key has ASCII characters only: enter it again.", true);
    this.api.key = key;
    find("connection").open = false;
    this.say("Asking the server \u2026");
    this.start();
  }

  example() {
    const list = find("example");
    if (list.value) this.conversation.write(list.value);
    list.value = "";
  }

  /**
   * @param {string} sentence
   * @param {boolean} [bad]
   */
  say(sentence, bad = false) {
    const status = find("status");
    status.textContent = sentence;
    status.classList.toggle("failed", bad);
  }

  /**
   * @param {Event} event
   * @param {() => void} action
   */
  submit(event, action) {
    event.preventDefault();
    action();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && this.about) {
      event.preventDefault();
      this.run();
    } else if (event.key === "Escape") {
      this.running.abort();
    }
  }
}

new Inspector();
