// A stroke of a round brush: hard or with a soft edge, covering fully or in part, as wide as a pen presses.
//
// A soft edge is made of strokes within strokes: each is the same path, a little narrower, and adds
// what the rule of the edge asks for at its rim. So a stroke that crosses itself is no denser there.

const LEVELS = 16;

// `points` are [x, y, share]: pixels of the picture, and the share of the width there.
// softness and opacity are 0 to 1.
export function newStroke({ width, colour, erases, softness = 0, opacity = 1 }, point) {
  return { width, colour, erases, softness, opacity, points: [point] };
}

// Such strokes can be continued on the canvas itself.
export function isPlain({ softness, opacity }) {
  return !softness && opacity === 1;
}

// Paints a plain stroke from one of its points on.
export function paintPlain(pen, stroke, from) {
  pen.globalCompositeOperation = stroke.erases ? "destination-out" : "source-over";
  pen.fillStyle = pen.strokeStyle = stroke.colour;
  trace(pen, stroke, from, 1);
  pen.globalCompositeOperation = "source-over";
}

// Lays a stroke on `pen`, by way of `aside`, a context of the same size. `ground` is what was there before the stroke;
// with it only what the points from `from` on reach is laid anew.
export function lay(pen, stroke, aside, ground = null, from = 0) {
  const box = reach(stroke, from, pen.canvas);
  if (!box) return;
  aside.save();
  aside.clearRect(...box);
  aside.beginPath();
  aside.rect(...box);
  aside.clip();
  aside.fillStyle = aside.strokeStyle = stroke.colour;
  for (const { share, alpha } of levels(stroke.softness)) {
    aside.globalAlpha = alpha;
    trace(aside, stroke, 0, share);
  }
  aside.restore();
  if (ground) {
    pen.clearRect(...box);
    pen.drawImage(ground, ...box, ...box);
  }
  pen.globalAlpha = stroke.opacity;
  pen.globalCompositeOperation = stroke.erases ? "destination-out" : "source-over";
  pen.drawImage(aside.canvas, ...box, ...box);
  pen.globalAlpha = 1;
  pen.globalCompositeOperation = "source-over";
}

// From the rim inwards: the share of the width, and the alpha that brings the sum of all so far to the edge's rule.
function levels(softness) {
  if (!softness) return [{ share: 1, alpha: 1 }];
  const list = [];
  let before = 0;
  for (let level = 1; level <= LEVELS; level += 1) {
    const inwards = level / LEVELS;
    const cover = inwards * inwards * (3 - 2 * inwards);
    list.push({ share: 1 - (softness * (level - 1)) / LEVELS, alpha: 1 - (1 - cover) / (1 - before) });
    before = cover;
  }
  return list;
}

// The pixels that a stroke can touch from one of its points on; null when all are outside.
function reach({ width, points }, from, { width: most, height: high }) {
  const margin = width / 2 + 1;
  const [xs, ys] = [0, 1].map((axis) => points.slice(from).map((point) => point[axis]));
  const left = Math.max(0, Math.floor(Math.min(...xs) - margin));
  const top = Math.max(0, Math.floor(Math.min(...ys) - margin));
  const right = Math.min(most, Math.ceil(Math.max(...xs) + margin));
  const bottom = Math.min(high, Math.ceil(Math.max(...ys) + margin));
  return right > left && bottom > top ? [left, top, right - left, bottom - top] : null;
}

function trace(pen, { width, points }, from, share) {
  pen.beginPath();
  if (points.every(([, , pressed]) => pressed === 1)) traceLine(pen, points, from, width * share);
  else tracePressed(pen, points, from, (width * share) / 2);
}

function traceLine(pen, points, from, width) {
  pen.lineWidth = width;
  pen.lineCap = pen.lineJoin = "round";
  pen.moveTo(points[from][0], points[from][1]);
  // A line of no length is a dot.
  for (const [x, y] of points.slice(from)) pen.lineTo(x, y);
  pen.stroke();
}

// Discs, and what lies between each two; all turn the same way, so that together they are one shape.
function tracePressed(pen, points, from, radius) {
  let last = null;
  for (const [x, y, pressed] of points.slice(from)) {
    const here = { x, y, radius: radius * pressed };
    pen.moveTo(x + here.radius, y);
    pen.arc(x, y, here.radius, 0, 2 * Math.PI);
    if (last) bridge(pen, last, here);
    last = here;
  }
  pen.fill();
}

function bridge(pen, one, other) {
  const length = Math.hypot(other.x - one.x, other.y - one.y);
  if (!length) return;
  const [across, down] = [(other.y - one.y) / length, -(other.x - one.x) / length];
  const corner = ({ x, y, radius }, side) => [x + side * across * radius, y + side * down * radius];
  pen.moveTo(...corner(one, 1));
  pen.lineTo(...corner(other, 1));
  pen.lineTo(...corner(other, -1));
  pen.lineTo(...corner(one, -1));
  pen.closePath();
}
