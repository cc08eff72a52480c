/** What the page asks the server. The key stays in memory. */

/**
 * @typedef {{role: "system" | "user" | "assistant", content: string}} Turn
 * @typedef {{direction: string, state: number, coefficient: number, span: string}} Steering
 * @typedef {{messages: Turn[], on_harmful?: string, on_over_refusal?: string}} Conversation
 * @typedef {Object<string, any>} Wire
 */

/** Anything that the server or the way to it refuses, in one sentence. */
export class AskError extends Error {
  /**
   * @param {string} message
   * @param {number} status of the response; 0 where there was none
   */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Api {
  constructor() {
    /** @type {string} */
    this.key = "";
  }

  /**
   * @returns {Promise<Wire>}
   */
  async about() {
    return (await this.ask("inspector/about")).json();
  }

  /**
   * @param {Conversation} conversation
   * @param {AbortSignal} signal
   * @returns {Promise<Wire>}
   */
  async read(conversation, signal) {
    return (await this.ask("inspector/read", conversation, signal)).json();
  }

  /**
   * @param {Conversation & {steering: Steering | null, max_tokens: number}} wanted
   * @param {AbortSignal} signal
   * @param {(event: Wire) => void} onEvent
   */
  async reply(wanted, signal, onEvent) {
    const response = await this.ask("inspector/reply", wanted, signal);
    if (!response.body) throw new AskError("This browser cannot read a reply while it is generated.", 0);
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    let ended = false;
    for (;;) {
      const { value, done } = await guarded(() => reader.read(), signal);
      if (done) break;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = parts.pop() || "";
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        const event = JSON.parse(part.slice(6));
        ended = ended || event.type === "ended";
        onEvent(event);
      }
    }
    if (!ended) throw new AskError("The connection ended before the reply did; run it again.", 0);
  }

  /**
   * @param {string} address relative to the page
   * @param {object} [body]
   * @param {AbortSignal} [signal]
   * @returns {Promise<Response>}
   */
  async ask(address, body, signal) {
    /** @type {Object<string, string>} */
    const headers = {};
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    if (body) headers["Content-Type"] = "application/json";
    const options = { method: body ? "POST" : "GET", headers, signal, body: body ? JSON.stringify(body) : undefined };
    const response = await guarded(() => fetch(address, options), signal);
    if (!response.ok) throw new AskError(await sentence(response), response.status);
    return response;
  }
}

/**
 * @template T
 * @param {() => Promise<T>} action
 * @param {AbortSignal} [signal]
 * @returns {Promise<T>}
 */
async function guarded(action, signal) {
  try {
    return await action();
  } catch (error) {
    if (signal && signal.aborted) throw error;
    const reason = navigator.onLine ? "is it still running?" : "this device is offline.";
    throw new AskError(`The server cannot be reached: ${reason}`, 0);
  }
}

/**
 * @param {Response} response
 * @returns {Promise<string>} why the server refuses, in its own words where it has some
 */
async function sentence(response) {
  let said = "";
  try {
    const body = await response.json();
    said = typeof body.error?.message === "string" ? body.error.message : "";
  } catch {
    said = "";
  }
  if (response.status === 401) return "This server wants its API key: enter it above, under API key.";
  if (response.status === 429) {
    const seconds = Number(response.headers.get("Retry-After"));
    const when = seconds > 0 ? `Try again in ${seconds} s.` : "Try again soon.";
    return `The server is busy (429). ${when}`;
  }
  return said || `The server answered with status ${response.status}.`;
}
