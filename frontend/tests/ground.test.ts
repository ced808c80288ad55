import { describe, expect, test } from 'vitest';
import { rasterPixel, toCrs, toLonLat, toLonLatUnwrapped } from '../src/viewer/ground';
import { geodesicArea, geodesicDistance, lengthText, lineLength, ringArea, shoelace, areaText } from '../src/viewer/measure';
import { layerOf } from './made';
import type { Ground } from '../src/shared/contract';

const GRID = { rows: [0, 4, 10], cols: [0, 10], lon: [[0, 10], [1, 11], [2, 12]], lat: [[50, 50], [46, 46], [34, 34]] };

describe('degrees', () => {
  test('are interpolated between crossings that are not evenly spaced', () => {
    expect(toLonLat(GRID, 5, 2)).toEqual([5.5, 48]);
    expect(toLonLat(GRID, 10, 7)).toEqual([11.5, 40]);
    expect(toLonLat(GRID, 0, 10)).toEqual([2, 34]);
  });
  test('go on beyond the date line inside, and are wrapped for people', () => {
    const grid = { rows: [0, 1], cols: [0, 10], lon: [[179, 182], [179, 182]], lat: [[1, 1], [0, 0]] };
    expect(toLonLatUnwrapped(grid, 10, 0)[0]).toBeCloseTo(182, 12);
    expect(toLonLat(grid, 10, 0)[0]).toBeCloseTo(-178, 12);
  });
  test('coordinates follow the whole transform', () => {
    const ground = { transform: [2, 3, 100, 5, -7, 200] } as unknown as Ground;
    expect(toCrs(ground, 10, 1)).toEqual([123, 243]);
  });
});

test('a scene pixel finds the pixel of a coarser and of a finer raster', () => {
  const coarse = layerOf({ pixels: [2, 4], height: 5, width: 3 });
  expect(rasterPixel(coarse, 3, 7)).toEqual([1, 1]);
  expect(rasterPixel(coarse, 9, 11)).toEqual([4, 2]);
  expect(rasterPixel(coarse, 10, 0)).toBeNull();
  expect(rasterPixel(layerOf({ pixels: [0.5, 0.5], height: 20, width: 20 }), 3, 0)).toEqual([7, 1]);
});

describe('measures', () => {
  // pyproj.Geod(ellps="WGS84").inv / polygon_area_perimeter of the same places.
  test('distances are those of the ellipsoid', () => {
    expect(geodesicDistance([-9.1, 38.7], [2.35, 48.85])).toBeCloseTo(1453218.7914, 2);
    expect(geodesicDistance([0, 0], [0, 1])).toBeCloseTo(110574.3886, 3);
    expect(geodesicDistance([5, 5], [5, 5])).toBe(0);
  });
  test('areas are those of the ellipsoid', () => {
    const cell: [number, number][] = [[10, 45], [10.1, 45], [10.1, 45.1], [10, 45.1]];
    expect(geodesicArea(cell) / 87548404.58).toBeCloseTo(1, 5);
  });
  test('a ring far from zero keeps its digits', () => {
    const at = 1e7;
    expect(shoelace([[at, at], [at + 0.5, at], [at + 0.5, at + 0.25], [at, at + 0.25]])).toBe(0.125);
  });
  test('without degrees, pixels count by their metres; without those, as pixels', () => {
    const plain = { lonlat: null, pixel_metres: null } as unknown as Ground;
    const metres = { lonlat: null, pixel_metres: [10, 20] } as unknown as Ground;
    expect(lineLength(plain, [[0, 0], [3, 4]]).value).toBeCloseTo(5, 9);
    expect(lengthText(lineLength(plain, [[0, 0], [3, 4]]))).toBe('5 pixels');
    expect(lineLength(metres, [[0, 0], [3, 4]]).value).toBeCloseTo(Math.hypot(30, 80), 9);
    const area = ringArea(metres, [[0, 0], [10, 0], [10, 5], [0, 5]]);
    expect(area).toEqual({ value: 10000, isMetric: true });
    expect(areaText(area)).toBe('1 ha');
  });
});
