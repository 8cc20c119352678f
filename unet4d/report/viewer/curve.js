// Curves: one line per class, end-diastole and end-systole marked, a line that follows the frame of the viewer.
"use strict";

const CURVE_LEFT = 58, CURVE_RIGHT = 14; // for the numbers beside the curves, in pixels
const SVG = "http://www.w3.org/2000/svg";

function append(parent, tag, attributes, words) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (words !== undefined) element.textContent = words;
  parent.append(element);
  return element;
}

// A step of 1, 2 or 5 times a power of ten that divides `range` into about `count` parts.
function roundStep(range, count) {
  const raw = range / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= raw);
}

// The frames that have a value, as runs without a gap.
function runs(values) {
  const found = [];
  values.forEach((value, frame) => {
    if (value === null) return;
    if (frame > 0 && values[frame - 1] !== null && found.length) found.at(-1).push(frame);
    else found.push([frame]);
  });
  return found;
}

// Draw one of the curves of `study` into `host`, as wide as it is, so that text has the size of the style. Returns mark(frame).
function drawCurve(host, width, study, curve) {
  const height = Math.round(Math.min(320, Math.max(220, 0.62 * width)));
  const box = { width, height, left: CURVE_LEFT, right: CURVE_RIGHT, top: 26, bottom: 40 };
  const seconds = study.frame_duration_s;
  const last = Math.max(study.frames - 1, 1);
  const shown = [...curve.values, ...curve.reference].flat();
  const highest = 1.08 * shown.reduce((most, value) => Math.max(most, value ?? 0), 1e-9);
  const lowest = 1.08 * shown.reduce((least, value) => Math.min(least, value ?? 0), 0);
  const x = (frame) => box.left + ((box.width - box.left - box.right) * frame) / last;
  const y = (value) => box.top + ((box.height - box.bottom - box.top) * (highest - value)) / (highest - lowest);
  const svg = append(host, "svg", { viewBox: `0 0 ${box.width} ${box.height}`, role: "img", class: "curve" });
  append(svg, "title", {}, `${curve.axis} of each class over all frames`);

  const up = roundStep(highest - lowest, 5);
  for (let n = Math.ceil(lowest / up); n * up <= highest; n++) {
    const at = y(n * up);
    append(svg, "line", { x1: box.left, x2: box.width - box.right, y1: at, y2: at, class: "grid" });
    append(svg, "text", { x: box.left - 7, y: at + 4, class: "tick end" }, Number((n * up).toPrecision(6)));
  }
  const unit = seconds ? (seconds * last < 2 ? 0.001 : 1) : 1; // of the axis, in seconds
  const span = seconds ? (seconds * last) / unit : last;
  const most = Math.max(3, Math.min(seconds ? 6 : 8, Math.floor(width / 80))); // numbers that fit beside one another
  const along = seconds ? roundStep(span, most) : Math.max(1, roundStep(span, most));
  for (let at = 0; at <= span * 1.0001; at += along) {
    const frame = seconds ? (at * unit) / seconds : at;
    append(svg, "text", { x: x(frame), y: box.height - box.bottom + 17, class: "tick middle" }, Number(at.toPrecision(6)));
  }
  const axis = seconds ? (unit === 1 ? "time (s)" : "time (ms)") : "frame";
  append(svg, "text", { x: (box.left + box.width - box.right) / 2, y: box.height - 5, class: "tick middle" }, axis);
  const middle = (box.top + box.height - box.bottom) / 2;
  append(svg, "text", { x: 13, y: middle, transform: `rotate(-90 13 ${middle})`, class: "tick middle" }, curve.axis);

  const near = study.moments.length === 2 && Math.abs(x(study.moments[0].frame) - x(study.moments[1].frame)) < 40;
  for (const { frame, name } of study.moments) {
    append(svg, "line", { x1: x(frame), x2: x(frame), y1: box.top, y2: box.height - box.bottom, class: "moment" });
    const first = study.moments.every((other) => other.frame >= frame);
    const side = near ? (first ? "end" : "start") : frame > 0.9 * last ? "end" : "middle";
    append(svg, "text", { x: x(frame), y: box.top - 6, class: `moment-name ${side}` }, name);
  }
  const circles = (values, attributes) =>
    values.forEach((value, frame) => {
      if (value !== null) append(svg, "circle", { cx: x(frame), cy: y(value), ...attributes });
    });
  study.classes.forEach(({ color }, k) => {
    const values = curve.values[k];
    for (const part of runs(values)) {
      const points = part.map((frame) => `${x(frame).toFixed(1)},${y(values[frame]).toFixed(1)}`).join(" ");
      append(svg, "polyline", { points, stroke: color, class: "line" });
    }
    if (study.frames <= 60) circles(values, { r: 2.6, fill: color });
    circles(curve.reference[k], { r: 6.5, stroke: color, class: "reference" });
  });
  const line = append(svg, "line", { y1: box.top, y2: box.height - box.bottom, class: "now", id: "now" });
  const dots = study.classes.map((one) => append(svg, "circle", { r: 5, fill: one.color, class: "now-dot" }));
  return (frame) => {
    line.setAttribute("x1", x(frame));
    line.setAttribute("x2", x(frame));
    line.dataset.frame = frame;
    dots.forEach((dot, k) => {
      const value = curve.values[k][frame];
      dot.setAttribute("visibility", value === null ? "hidden" : "visible");
      dot.setAttribute("cx", x(frame));
      dot.setAttribute("cy", y(value ?? 0));
    });
  };
}

// Keep one of the curves of `study` in `host`, redrawn when its width changes; a click calls `pick(frame)`. Returns mark(frame).
function keepCurve(host, legend, study, curve, pick) {
  let width = 0;
  let marked = 0;
  let markFrame = () => {};
  const values = study.classes.map((one) => {
    const row = document.createElement("li");
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = one.color;
    const value = document.createElement("b");
    row.append(dot, one.name, value);
    legend.append(row);
    return value;
  });

  function redraw() {
    const wanted = Math.round(host.clientWidth);
    if (!wanted || wanted === width) return; // nothing is drawn where it is hidden, as on paper
    width = wanted;
    host.replaceChildren();
    markFrame = drawCurve(host, width, study, curve);
    markFrame(marked);
  }
  redraw();
  new ResizeObserver(redraw).observe(host);

  host.addEventListener("click", (event) => {
    const place = host.getBoundingClientRect();
    const inner = width - CURVE_LEFT - CURVE_RIGHT;
    const frame = Math.round(((event.clientX - place.left - CURVE_LEFT) / inner) * Math.max(study.frames - 1, 1));
    pick(Math.min(study.frames - 1, Math.max(0, frame)));
  });

  return (frame) => {
    marked = frame;
    markFrame(frame);
    values.forEach((shown, k) => {
      const value = curve.values[k][frame];
      const digits = () => (curve.digits === null ? Number(value.toPrecision(4)) : value.toFixed(curve.digits));
      shown.textContent = value === null ? "-" : `${digits()} ${curve.unit}`.trim();
    });
  };
}
