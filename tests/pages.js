// The faults of the page that is shown, a sentence each. `arguments[0]`: whether the person reads at night.
const dark = arguments[0], found = [], room = innerWidth;
const told = (e) =>
  `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") || ""}"> ${(e.textContent || "").trim().slice(0, 60)}`;

// Colours as [red, green, blue, opacity], and how bright they are.
const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = "#000";
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const linear = (c) => (c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const over = (top, below) => top.slice(0, 3).map((c, n) => c * top[3] + below[n] * (1 - top[3]));

// What lies behind an element: its own ground over that of its parents, the sheet of a drawing among them.
const ground = (e) => {
  const layers = [];
  for (let at = e; at; at = at.parentElement) {
    const sheet = at.tagName.toLowerCase() === "svg" && at.querySelector(":scope > rect[width='100%']");
    if (sheet) layers.push(rgba(getComputedStyle(sheet).fill));
    layers.push(rgba(getComputedStyle(at).backgroundColor));
  }
  return layers.reverse().reduce((below, top) => over(top, below), dark ? [18, 18, 18] : [255, 255, 255]);
};
const seen = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
const scale = (svg) =>
  svg && svg.viewBox.baseVal.width ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;

const used = document.documentElement.scrollWidth;
if (used > room) found.push(`the page is ${used} wide in a window of ${room}`);

for (const e of document.body.querySelectorAll("*")) {
  if (!seen(e) || e.closest("script, style, noscript, datalist")) continue;
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  if (box.width < 2 || box.height < 2) continue;
  const wide = e.scrollWidth > e.clientWidth + 1, words = (e.textContent || "").trim();
  if (style.overflowX !== "visible" && wide && words && !e.matches("textarea, input"))
    found.push(`wider than its place (${e.scrollWidth} of ${e.clientWidth}): ${told(e)}`);
  if (e.matches("input[type=text], input:not([type])") && wide) found.push(`cut: ${e.value}`);
  if (dark && box.width * box.height > 20000 && light(ground(e)) > 0.6) found.push(`white at night: ${told(e)}`);
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
  if (box.right > room + 1 || box.left < -1) found.push(`beyond the window: ${told(e)}`);
  const svg = e.closest("svg"), below = ground(e);
  const ink = over(rgba(svg ? style.fill : style.color), below);
  const [more, less] = [light(ink), light(below)].sort((a, b) => b - a);
  if ((more + 0.05) / (less + 0.05) < 2.5 && !e.closest("[disabled], [aria-hidden=true]"))
    found.push(`hardly to be seen: ${told(e)}`);
  const size = parseFloat(style.fontSize) * scale(svg);
  const sheet = svg && svg.getBoundingClientRect();
  if (sheet && (box.left < sheet.left - 2 || box.right > sheet.right + 2 || box.top < sheet.top - 2 || box.bottom > sheet.bottom + 2))
    found.push(`beyond its drawing: ${told(e)}`);
  if (size < 8.5) found.push(`letters of ${size.toFixed(1)} pixels: ${told(e)}`);
}

// Indices, numbers, and the parts of an address stand on one line each.
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const name = /[\p{L}\d_]+/gu;
const whole = /\[[\d:]+(, ?[\d:]+)*\]|(?<![\p{L}\d_-])[+-]?\d[\d,]*\.?\d*(e[+-]?\d+)?/gu;
for (let node; (node = walk.nextNode()); ) {
  const at = node.parentElement;
  if (!at || at.closest("script, style, svg, textarea") || !seen(at)) continue;
  for (const match of node.textContent.matchAll(at.closest(".address, code") && !at.closest(".place") ? name : whole)) {
    const range = document.createRange();
    range.setStart(node, match.index);
    range.setEnd(node, match.index + match[0].length);
    const lines = new Set([...range.getClientRects()].filter((r) => r.width > 0).map((r) => Math.round(r.top / 4)));
    if (lines.size > 1) found.push(`broken: ${match[0]} in ${told(at)}`);
  }
}
return [...new Set(found)];
