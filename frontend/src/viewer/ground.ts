/** Where pixels of the scene grid lie: coordinates of its CRS, degrees, and back from the page. */
import type { Ground, Layer, LonLat } from '../shared/contract';

export type Pair = [number, number];

/** Coordinates of the scene's CRS at a place of the grid. */
export function toCrs(ground: Ground, col: number, row: number): Pair {
  const [a, b, c, d, e, f] = ground.transform;
  return [a * col + b * row + c, d * col + e * row + f];
}

/** Longitude and latitude at a place of the grid, by linear interpolation; longitude in ±180. */
export function toLonLat(grid: LonLat, col: number, row: number): Pair {
  const [lon, lat] = toLonLatUnwrapped(grid, col, row);
  return [wrap(lon), lat];
}

/** As `toLonLat`, with longitudes that go on beyond ±180. */
export function toLonLatUnwrapped(grid: LonLat, col: number, row: number): Pair {
  const [i, u] = locate(grid.rows, row);
  const [j, v] = locate(grid.cols, col);
  const at = (values: number[][]): number => {
    const upper = values[i]!;
    const lower = values[Math.min(i + 1, values.length - 1)]!;
    const k = Math.min(j + 1, upper.length - 1);
    return (
      (upper[j]! * (1 - v) + upper[k]! * v) * (1 - u) + (lower[j]! * (1 - v) + lower[k]! * v) * u
    );
  };
  return [at(grid.lon), at(grid.lat)];
}

/** Interval of ascending knots that a value lies in, and where in it; outside, the last one goes on. */
function locate(knots: number[], value: number): Pair {
  if (knots.length < 2) return [0, 0];
  let low = 0;
  let high = knots.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (knots[middle]! <= value) low = middle;
    else high = middle - 1;
  }
  return [low, (value - knots[low]!) / (knots[low + 1]! - knots[low]!)];
}

function wrap(lon: number): number {
  return lon - 360 * Math.floor((lon + 180) / 360);
}

/** Row and column of the raster's pixel at the middle of a scene pixel; null outside the raster. */
export function rasterPixel(layer: Layer, row: number, col: number): Pair | null {
  const found: Pair = [
    Math.floor((row + 0.5) / layer.pixels[0]),
    Math.floor((col + 0.5) / layer.pixels[1]),
  ];
  const inside = found[0] >= 0 && found[1] >= 0 && found[0] < layer.height && found[1] < layer.width;
  return inside ? found : null;
}

/** "9.123456° W, 38.712345° N" with places for a pixel of so many metres. */
export function degreesText([lon, lat]: Pair, metres = 1): string {
  const places = Math.min(8, Math.max(4, Math.ceil(5 - Math.log10(Math.max(metres, 1e-3)))));
  const part = (value: number, ends: string): string =>
    `${Math.abs(value).toFixed(places)}° ${value < 0 ? ends[1] : ends[0]}`;
  return `${part(lat, 'NS')}, ${part(lon, 'EW')}`;
}

/** Coordinates with places that tell pixels apart. */
export function crsText(ground: Ground, col: number, row: number): string {
  const [x, y] = toCrs(ground, col, row);
  const [a, b, , d, e] = ground.transform;
  const step = Math.min(Math.hypot(a, d), Math.hypot(b, e)) || 1;
  const places = Math.min(9, Math.max(1, Math.ceil(1 - Math.log10(step))));
  return `${x.toFixed(places)}, ${y.toFixed(places)}`;
}
