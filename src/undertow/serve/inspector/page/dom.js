/** Elements are made here, and text goes in as text only. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {Object} Options
 * @property {string} [text] text content
 * @property {string} [class] class names
 * @property {Object<string, string | number | boolean>} [attributes]
 */

/**
 * @param {string} tag
 * @param {Options} [options]
 * @param {...Node} children
 * @returns {HTMLElement}
 */
export function make(tag, options = {}, ...children) {
  return fill(document.createElement(tag), options, children);
}

/**
 * @param {string} tag
 * @param {Options} [options]
 * @param {...Node} children
 * @returns {SVGElement}
 */
export function draw(tag, options = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), options, children);
}

/**
 * @param {string} id
 * @returns {any} the element of the page with that id
 */
export function find(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`The page has no element ${id}.`);
  return found;
}

/**
 * A function that waits for the next frame and then runs once, however often it was called.
 * @param {() => void} action
 * @returns {() => void}
 */
export function oncePerFrame(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      action();
    });
  };
}

/**
 * @template {Element} T
 * @param {T} element
 * @param {Options} options
 * @param {Node[]} children
 * @returns {T}
 */
function fill(element, options, children) {
  if (options.class) element.setAttribute("class", options.class);
  for (const [name, value] of Object.entries(options.attributes || {})) element.setAttribute(name, String(value));
  if (options.text !== undefined) element.textContent = options.text;
  element.append(...children);
  return element;
}
