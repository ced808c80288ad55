/** Distances and areas on the ellipsoid of WGS 84, where a scene knows its degrees. */
import type { Ground } from '../shared/contract';
import { toLonLatUnwrapped, type Pair } from './ground';

const A = 6378137;
const F = 1 / 298.257223563;
const B = A * (1 - F);
const E2 = F * (2 - F);
const E = Math.sqrt(E2);
const RADIANS = Math.PI / 180;
/** Parts into which a drawn line is cut: straight on the grid is not straight on the ground. */
const PARTS = 32;

/**
 * Metres between two places (degrees) along the ellipsoid.
 *
 * Reference: T. Vincenty, Direct and inverse solutions of geodesics, Survey Review 23 (176), 1975.
 */
export function geodesicDistance([lon1, lat1]: Pair, [lon2, lat2]: Pair): number {
  const u1 = Math.atan((1 - F) * Math.tan(lat1 * RADIANS));
  const u2 = Math.atan((1 - F) * Math.tan(lat2 * RADIANS));
  const [s1, c1, s2, c2] = [Math.sin(u1), Math.cos(u1), Math.sin(u2), Math.cos(u2)];
  const l = (lon2 - lon1) * RADIANS;
  let lambda = l;
  for (let i = 0; i < 50; i++) {
    const [sl, cl] = [Math.sin(lambda), Math.cos(lambda)];
    const sinSigma = Math.hypot(c2 * sl, c1 * s2 - s1 * c2 * cl);
    if (sinSigma === 0) return 0;
    const cosSigma = s1 * s2 + c1 * c2 * cl;
    const sigma = Math.atan2(sinSigma, cosSigma);
    const sinAlpha = (c1 * c2 * sl) / sinSigma;
    const cos2Alpha = 1 - sinAlpha ** 2;
    const cosMiddle = cos2Alpha === 0 ? 0 : cosSigma - (2 * s1 * s2) / cos2Alpha;
    const c = (F / 16) * cos2Alpha * (4 + F * (4 - 3 * cos2Alpha));
    const inner = cosMiddle + c * cosSigma * (2 * cosMiddle ** 2 - 1);
    const next = l + (1 - c) * F * sinAlpha * (sigma + c * sinSigma * inner);
    const isDone = Math.abs(next - lambda) < 1e-12;
    lambda = next;
    if (isDone) return arcLength(cos2Alpha, sigma, sinSigma, cosSigma, cosMiddle);
  }
  return sphereDistance([lon1, lat1], [lon2, lat2]);
}

function arcLength(
  cos2Alpha: number,
  sigma: number,
  sinSigma: number,
  cosSigma: number,
  cosMiddle: number,
): number {
  const u2 = (cos2Alpha * (A ** 2 - B ** 2)) / B ** 2;
  const a = 1 + (u2 / 16384) * (4096 + u2 * (-768 + u2 * (320 - 175 * u2)));
  const b = (u2 / 1024) * (256 + u2 * (-128 + u2 * (74 - 47 * u2)));
  const last = (b / 6) * cosMiddle * (4 * sinSigma ** 2 - 3) * (4 * cosMiddle ** 2 - 3);
  const turn = cosMiddle + (b / 4) * (cosSigma * (2 * cosMiddle ** 2 - 1) - last);
  return B * a * (sigma - b * sinSigma * turn);
}

/** Places on opposite sides of the earth, where the series does not end. */
function sphereDistance([lon1, lat1]: Pair, [lon2, lat2]: Pair): number {
  const half = (x: number): number => Math.sin((x * RADIANS) / 2) ** 2;
  const h = half(lat2 - lat1) + Math.cos(lat1 * RADIANS) * Math.cos(lat2 * RADIANS) * half(lon2 - lon1);
  return 2 * 6371008.8 * Math.asin(Math.min(1, Math.sqrt(h)));
}

/** q of the authalic latitude (Snyder, Map Projections, USGS 1395, 1987, equation 3-12). */
function authalic(lat: number): number {
  const s = Math.sin(lat * RADIANS);
  const e = E * s;
  return (1 - E2) * (s / (1 - e ** 2) - Math.log((1 - e) / (1 + e)) / (2 * E));
}

/** Square metres within a ring of degrees, in the equal-area cylinder of the ellipsoid. */
export function geodesicArea(ring: Pair[]): number {
  return shoelace(ring.map(([lon, lat]) => [A * lon * RADIANS, (A * authalic(lat)) / 2]));
}

/** Area of a ring in the plane. */
export function shoelace(ring: Pair[]): number {
  let twice = 0;
  for (let i = 0; i < ring.length; i++) {
    const [x1, y1] = ring[i]!;
    const [x2, y2] = ring[(i + 1) % ring.length]!;
    // From the first corner: far from zero, products lose digits.
    const [x0, y0] = ring[0]!;
    twice += (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0);
  }
  return Math.abs(twice) / 2;
}

/** A length or an area, and its unit: metres where the ground is known, else pixels. */
export interface Measured {
  value: number;
  isMetric: boolean;
}

/** Length of a line of [col, row]. */
export function lineLength(ground: Ground, line: Pair[]): Measured {
  const parts = line.slice(1).map((end, i) => cut(line[i]!, end));
  const { lonlat, pixel_metres: metres } = ground;
  let value = 0;
  for (const part of parts) {
    for (let i = 1; i < part.length; i++) {
      const [from, to] = [part[i - 1]!, part[i]!];
      if (lonlat) {
        value += geodesicDistance(toLonLatUnwrapped(lonlat, ...from), toLonLatUnwrapped(lonlat, ...to));
      } else {
        const [w, h] = metres ?? [1, 1];
        value += Math.hypot((to[0] - from[0]) * w, (to[1] - from[1]) * h);
      }
    }
  }
  return { value, isMetric: Boolean(lonlat ?? metres) };
}

/** Area of a ring of [col, row]. */
export function ringArea(ground: Ground, ring: Pair[]): Measured {
  const { lonlat, pixel_metres: metres } = ground;
  if (lonlat) {
    const dense = ring.flatMap((start, i) => cut(start, ring[(i + 1) % ring.length]!).slice(0, -1));
    return { value: geodesicArea(dense.map((at) => toLonLatUnwrapped(lonlat, ...at))), isMetric: true };
  }
  const [w, h] = metres ?? [1, 1];
  return { value: shoelace(ring) * w * h, isMetric: Boolean(metres) };
}

function cut(from: Pair, to: Pair): Pair[] {
  return Array.from({ length: PARTS + 1 }, (_, i) => [
    from[0] + ((to[0] - from[0]) * i) / PARTS,
    from[1] + ((to[1] - from[1]) * i) / PARTS,
  ]);
}

/** Digits of a number, at least `figures` of them that count. */
export function digits(value: number, figures = 4): string {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const places = Math.max(0, figures - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString('en', {
    minimumFractionDigits: 0,
    maximumFractionDigits: Math.min(places, 12),
  });
}

export function lengthText({ value, isMetric }: Measured): string {
  if (!isMetric) return `${digits(value)} pixels`;
  return value < 1000 ? `${digits(value)} m` : `${digits(value / 1000)} km`;
}

export function areaText({ value, isMetric }: Measured): string {
  if (!isMetric) return `${digits(value)} pixels`;
  if (value < 1e4) return `${digits(value)} m²`;
  return value < 1e7 ? `${digits(value / 1e4)} ha` : `${digits(value / 1e6)} km²`;
}
