/** The page's colours, as its style sheet has them in the scheme of the moment. */

/**
 * @typedef {{low: number[], middle: number[], high: number[], ink: string, onStrong: string, none: string}} Paint
 * @returns {Paint}
 */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  return {
    low: parts(read("--low")),
    middle: parts(read("--middle")),
    high: parts(read("--high")),
    ink: read("--ink"),
    onStrong: read("--on-strong"),
    none: read("--grid"),
  };
}

/**
 * @param {number | null} value from -1 to +1; beyond, the ends' colours
 * @param {Paint} paint
 * @returns {string}
 */
export function mixed(value, paint) {
  if (value === null) return paint.none;
  const share = Math.min(1, Math.abs(value));
  const end = value < 0 ? paint.low : paint.high;
  const channel = (/** @type {number} */ index) =>
    Math.round(paint.middle[index] + share * (end[index] - paint.middle[index]));
  return `rgb(${channel(0)}, ${channel(1)}, ${channel(2)})`;
}

/**
 * @param {string} hex such as #1f6fb2
 * @returns {number[]}
 */
function parts(hex) {
  return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
}
