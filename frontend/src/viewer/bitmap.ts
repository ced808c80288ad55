/** Painted pixels as polygons: strokes and rings to bitmaps, bitmaps to rings along pixel edges. */
import type { Pair } from './ground';

export type Ring = Pair[];
/** An outer ring and its holes, closed (first corner = last), in [col, row]. */
export type Polygon = Ring[];

/** Booleans of a rectangle of scene pixels. */
export interface Bitmap {
  col: number;
  row: number;
  width: number;
  height: number;
  on: Uint8Array;
}

export function emptyBitmap(col: number, row: number, width: number, height: number): Bitmap {
  return { col, row, width, height, on: new Uint8Array(Math.max(0, width) * Math.max(0, height)) };
}

/** Pixels whose middle is within a radius of a stroke, inside a scene. */
export function strokeBitmap(stroke: Pair[], radius: number, width: number, height: number): Bitmap {
  const cols = stroke.map((each) => each[0]);
  const rows = stroke.map((each) => each[1]);
  const [left, right] = bounds(cols, radius, width);
  const [top, bottom] = bounds(rows, radius, height);
  const bitmap = emptyBitmap(left, top, right - left, bottom - top);
  if (stroke.length === 1) paintSegment(bitmap, stroke[0]!, stroke[0]!, radius);
  for (let i = 1; i < stroke.length; i++) paintSegment(bitmap, stroke[i - 1]!, stroke[i]!, radius);
  // The pixel under the pointer, however small the brush.
  for (const [x, y] of stroke) set(bitmap, Math.floor(x), Math.floor(y));
  return bitmap;
}

function bounds(values: number[], radius: number, most: number): Pair {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const first = Math.min(most, Math.max(0, Math.floor(low - radius)));
  return [first, Math.max(first, Math.min(most, Math.floor(high + radius) + 1))];
}

function set(bitmap: Bitmap, col: number, row: number): void {
  const [x, y] = [col - bitmap.col, row - bitmap.row];
  if (x >= 0 && y >= 0 && x < bitmap.width && y < bitmap.height) bitmap.on[y * bitmap.width + x] = 1;
}

function paintSegment(bitmap: Bitmap, from: Pair, to: Pair, radius: number): void {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length2 = dx * dx + dy * dy;
  const rows = bounds([from[1], to[1]], radius, Infinity);
  const cols = bounds([from[0], to[0]], radius, Infinity);
  for (let row = Math.max(rows[0], bitmap.row); row < Math.min(rows[1], bitmap.row + bitmap.height); row++) {
    for (let col = Math.max(cols[0], bitmap.col); col < Math.min(cols[1], bitmap.col + bitmap.width); col++) {
      const [px, py] = [col + 0.5 - from[0], row + 0.5 - from[1]];
      const t = length2 === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / length2));
      if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= radius * radius) set(bitmap, col, row);
    }
  }
}

/** Pixels whose middle lies in a polygon (even-odd). */
export function polygonBitmap(polygon: Polygon): Bitmap {
  const outer = polygon[0]!;
  const [left, right] = [Math.min(...outer.map((p) => p[0])), Math.max(...outer.map((p) => p[0]))].map(Math.round);
  const [top, bottom] = [Math.min(...outer.map((p) => p[1])), Math.max(...outer.map((p) => p[1]))].map(Math.round);
  const bitmap = emptyBitmap(left! - 1, top! - 1, right! - left! + 2, bottom! - top! + 2);
  for (let y = 0; y < bitmap.height; y++) {
    const middle = bitmap.row + y + 0.5;
    const crossings = polygon.flatMap((ring) => crossingsOf(ring, middle)).sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.ceil(crossings[i]! - 0.5);
      const last = Math.ceil(crossings[i + 1]! - 0.5) - 1;
      for (let col = first; col <= last; col++) set(bitmap, col, bitmap.row + y);
    }
  }
  return bitmap;
}

function crossingsOf(ring: Ring, y: number): number[] {
  const found: number[] = [];
  for (let i = 0; i < ring.length; i++) {
    const [x1, y1] = ring[i]!;
    const [x2, y2] = ring[(i + 1) % ring.length]!;
    if (y1 <= y !== y2 <= y) found.push(x1 + ((y - y1) / (y2 - y1)) * (x2 - x1));
  }
  return found;
}

/** Union of two bitmaps, or the first without the second. */
export function combine(a: Bitmap, b: Bitmap, isWithout = false): Bitmap {
  const result = isWithout ? { ...a, on: a.on.slice() } : covering(a, b);
  for (let y = 0; y < b.height; y++) {
    for (let x = 0; x < b.width; x++) {
      if (!b.on[y * b.width + x]) continue;
      if (!isWithout) set(result, b.col + x, b.row + y);
      else {
        const [u, v] = [b.col + x - a.col, b.row + y - a.row];
        if (u >= 0 && v >= 0 && u < a.width && v < a.height) result.on[v * a.width + u] = 0;
      }
    }
  }
  return result;
}

function covering(a: Bitmap, b: Bitmap): Bitmap {
  const [left, top] = [Math.min(a.col, b.col), Math.min(a.row, b.row)];
  const right = Math.max(a.col + a.width, b.col + b.width);
  const bottom = Math.max(a.row + a.height, b.row + b.height);
  const result = emptyBitmap(left, top, right - left, bottom - top);
  for (let y = 0; y < a.height; y++) {
    const to = (a.row + y - top) * result.width + (a.col - left);
    result.on.set(a.on.subarray(y * a.width, (y + 1) * a.width), to);
  }
  return result;
}

/** Whether two bitmaps share a pixel. */
export function overlaps(a: Bitmap, b: Bitmap): boolean {
  const [left, right] = [Math.max(a.col, b.col), Math.min(a.col + a.width, b.col + b.width)];
  const [top, bottom] = [Math.max(a.row, b.row), Math.min(a.row + a.height, b.row + b.height)];
  for (let row = top; row < bottom; row++) {
    for (let col = left; col < right; col++) {
      const inA = a.on[(row - a.row) * a.width + col - a.col];
      if (inA && b.on[(row - b.row) * b.width + col - b.col]) return true;
    }
  }
  return false;
}

/**
 * Polygons along the pixel edges of a bitmap. Pixels that only share a corner are apart, so that
 * each polygon is valid; holes belong to the polygon around them.
 */
export function trace(bitmap: Bitmap): Polygon[] {
  const rings = ringsOf(bitmap);
  const outers = rings.filter((ring) => signedArea(ring) > 0);
  const polygons: Polygon[] = outers.map((ring) => [ring]);
  for (const hole of rings.filter((ring) => signedArea(ring) < 0)) {
    const owner = polygons
      .filter(([outer]) => isInside(insideOfHole(hole), outer!))
      .sort((a, b) => Math.abs(signedArea(a[0]!)) - Math.abs(signedArea(b[0]!)))[0];
    owner?.push(hole);
  }
  return polygons;
}

/** Twice the area of a closed ring: positive where the inside lies to the right, rows downwards. */
function signedArea(ring: Ring): number {
  let sum = 0;
  for (let i = 1; i < ring.length; i++) {
    sum += ring[i - 1]![0] * ring[i]![1] - ring[i]![0] * ring[i - 1]![1];
  }
  return sum;
}

/** A place just inside a hole's first edge; holes run with the filled pixels to their right. */
function insideOfHole(hole: Ring): Pair {
  const [[x1, y1], [x2, y2]] = [hole[0]!, hole[1]!];
  const [dx, dy] = [Math.sign(x2 - x1), Math.sign(y2 - y1)];
  // The filled pixel lies to the right of the direction: that is inside the outer ring for sure.
  return [(x1 + x2) / 2 - dy * 0.5, (y1 + y2) / 2 + dx * 0.5];
}

function isInside([x, y]: Pair, ring: Ring): boolean {
  return crossingsOf(ring, y).filter((each) => each > x).length % 2 === 1;
}

/** Directed edges with the filled pixel to the right: right along tops, down along right sides … */
function ringsOf(bitmap: Bitmap): Ring[] {
  const { width, height, on } = bitmap;
  const at = (x: number, y: number): boolean =>
    x >= 0 && y >= 0 && x < width && y < height && on[y * width + x] === 1;
  const stride = width + 1;
  const edges = new Map<number, number[]>(); // From a corner to directions: 0 right, 1 down, 2 left, 3 up.
  const add = (x: number, y: number, direction: number): void => {
    const key = y * stride + x;
    const there = edges.get(key);
    if (there) there.push(direction);
    else edges.set(key, [direction]);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!at(x, y)) continue;
      if (!at(x, y - 1)) add(x, y, 0);
      if (!at(x + 1, y)) add(x + 1, y, 1);
      if (!at(x, y + 1)) add(x + 1, y + 1, 2);
      if (!at(x - 1, y)) add(x, y + 1, 3);
    }
  }
  const rings: Ring[] = [];
  for (const [key, directions] of edges) {
    while (directions.length) rings.push(follow(edges, key, directions.pop()!, stride, bitmap));
  }
  return rings;
}

const STEPS: Pair[] = [[1, 0], [0, 1], [-1, 0], [0, -1]];

function follow(
  edges: Map<number, number[]>,
  start: number,
  first: number,
  stride: number,
  { col, row }: Bitmap,
): Ring {
  const ring: Ring = [];
  let [x, y] = [start % stride, Math.floor(start / stride)];
  let direction = first;
  let before = -1;
  do {
    if (direction !== before) ring.push([col + x, row + y]);
    x += STEPS[direction]![0];
    y += STEPS[direction]![1];
    before = direction;
    const there = edges.get(y * stride + x) ?? [];
    if (y * stride + x === start && there.length === 0) break;
    // Where two pixels meet at a corner, turn right: stay at the same pixel.
    const right = (direction + 1) % 4;
    const next = there.includes(right) ? right : there[0];
    if (next === undefined) break;
    if (y * stride + x === start && !there.includes(right)) break;
    there.splice(there.indexOf(next), 1);
    direction = next;
  } while (true);
  // The start lies on a straight edge where the last direction is the first one's.
  if (before === first) ring.shift();
  ring.push(ring[0]!);
  return ring;
}
