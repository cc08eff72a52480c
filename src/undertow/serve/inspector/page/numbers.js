/** Numbers as people read them. */

/**
 * @param {number | null} value
 * @param {number} [digits] after the point
 * @returns {string} with a sign, such as +0.83; "none" where it cannot be told
 */
export function signed(value, digits = 2) {
  if (value === null || value === undefined) return "none";
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "\u2212" : "+") + text;
}

/**
 * @param {number} value
 * @returns {string} with a proper minus sign and no more digits than needed
 */
export function plain(value) {
  return String(Number(value.toPrecision(3))).replace("-", "\u2212");
}

/**
 * Round numbers within a range, for an axis.
 * @param {number} low
 * @param {number} high
 * @param {number} wanted how many, about
 * @returns {number[]}
 */
export function ticks(low, high, wanted) {
  const raw = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw) || raw;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) {
    found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  }
  return found;
}

/**
 * @param {number[]} states ascending
 * @returns {string} such as "state 3" or "states 0 to 36"
 */
export function stateRange(states) {
  const last = states.length - 1;
  if (!last) return `state ${states[0]}`;
  if (last > 1 && states[last] - states[0] === last) return `states ${states[0]} to ${states[last]}`;
  return `states ${states.join(", ")}`;
}

/**
 * A token as it can be shown on one line: line breaks and tabs made visible.
 * @param {string} text
 * @returns {string}
 */
export function visible(text) {
  return text.replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5").replace(/\r/g, "\u240d");
}
