import { describe, expect, test } from 'vitest';
import { component, normalisedDifference, painterOf, type Values } from '../src/viewer/paint';
import { rampTable } from '../src/viewer/ramps';
import { bandRange, firstStyle, modesOf } from '../src/viewer/style';
import { bandOf, layerOf, viewOf } from './made';

function paint(layer = layerOf(), changes: object = {}, bands: Values[] = [], count = 1): number[] {
  const out = new Uint8ClampedArray(count * 4);
  const painter = painterOf(layer, { ...firstStyle(layer), ...changes }, viewOf([layer]).classes);
  for (let i = 0; i < count; i++) painter(bands, i, out, i * 4);
  return [...out];
}

describe('stretch', () => {
  const layer = layerOf({ bands: [bandOf({ low: 10, high: 20 }), bandOf(), bandOf({ factor: 0.5, summand: 3 })], rgb: [0, 1, 2] });
  test('goes from low to high, and holds at both ends', () => {
    const values = [Uint8Array.of(10, 20, 15, 0, 200), new Uint8Array(5), new Uint8Array(5)];
    const red = paint(layer, {}, values, 5).filter((_, i) => i % 4 === 0);
    expect(red[0]).toBe(0);
    expect(red[1]).toBe(255);
    expect(Math.abs(red[2]! - 127.5)).toBeLessThanOrEqual(1);
    expect(red.slice(3)).toEqual([0, 255]);
  });
  test('is of physical values', () => {
    // (94 · 0.5 + 3) = 50 of 0–100.
    const blue = paint(layer, {}, [Uint8Array.of(0), Uint8Array.of(0), Uint8Array.of(94)])[2]!;
    expect(Math.abs(blue - 127.5)).toBeLessThanOrEqual(1);
  });
  test('of one band, when changed, leaves the others', () => {
    const values = [Uint8Array.of(15), Uint8Array.of(50), Uint8Array.of(0)];
    const [r, g] = paint(layer, { ranges: { 0: [15, 30] } }, values);
    expect(r).toBe(0);
    expect(Math.abs(g! - 127.5)).toBeLessThanOrEqual(1);
  });
  test('with gamma 2, a quarter of the way is half as bright as white', () => {
    const grey = layerOf({ bands: [bandOf({ low: 0, high: 100 })] });
    expect(Math.abs(paint(grey, { gamma: 2 }, [Uint8Array.of(25)])[0]! - 127.5)).toBeLessThanOrEqual(1);
  });
  test('without percentiles or with equal ones still has a width', () => {
    expect(bandRange(bandOf({ low: 5, high: 5, least: 1, most: 9 }))).toEqual([1, 9]);
    expect(bandRange(bandOf({ low: 5, high: 5, least: 5, most: 5 }))).toEqual([5, 6]);
    expect(bandRange(bandOf({ low: null, high: null, least: null, most: null }))).toEqual([0, 1]);
  });
});

test('missing values are see-through: NaN, and what the file names', () => {
  const layer = layerOf({ kind: 'number', nodata: -9999 });
  expect(paint(layer, {}, [Float32Array.of(-9999, NaN, 0)], 3).filter((_, i) => i % 4 === 3)).toEqual([0, 0, 255]);
});

describe('index', () => {
  const layer = layerOf({
    bands: [bandOf(), bandOf({ factor: 2 })], indices: [{ id: 'ndvi', title: 'NDVI', a: 1, b: 0 }],
  });
  test('is a normalised difference of physical values', () => {
    expect(normalisedDifference(30, 10)).toBe(0.5);
    expect(normalisedDifference(0, 0)).toBeNaN();
    // Bands come as a, b: a = 15 · 2 = 30, b = 10; 0.5 lies at three quarters of -1 … 1.
    const ramp = rampTable('viridis');
    const colour = paint(layer, { mode: 'index', ramp: 'viridis' }, [Uint8Array.of(15), Uint8Array.of(10)]);
    expect(Math.abs(colour[0]! - ramp[191 * 3]!)).toBeLessThanOrEqual(2);
    expect(paint(layer, { mode: 'index' }, [Uint8Array.of(0), Uint8Array.of(0)])[3]).toBe(0);
  });
});

describe('components', () => {
  const axes: [number[], number[], number[]] = [[1, 0, 0, 0], [0, 0.6, 0.8, 0], [0, 0, 0, -1]];
  const layer = layerOf({
    bands: [bandOf(), bandOf(), bandOf({ factor: 10, summand: 1 }), bandOf()],
    rgb: [0, 1, 2],
    components: { mean: [1, 2, 3, 4], axes, low: [0, 0, -10], high: [10, 100, 10] },
  });
  test('are weights of distances from the mean', () => {
    expect(component([2, 12, 53, 4], [1, 2, 3, 4], axes[1])).toBeCloseTo(0.6 * 10 + 0.8 * 50, 12);
  });
  test('are painted as they are computed', () => {
    const stored = [2, 12, 5.2, 4]; // The third is 53 in physical units.
    const colour = paint(layer, { mode: 'pca' }, stored.map((each) => Float64Array.of(each)));
    expect(Math.abs(colour[0]! - 25.5)).toBeLessThanOrEqual(1);
    expect(Math.abs(colour[1]! - 255 * 0.46)).toBeLessThanOrEqual(1);
    expect(Math.abs(colour[2]! - 127.5)).toBeLessThanOrEqual(1);
  });
  test('are offered where there are some', () => {
    expect(modesOf(layer)).toEqual(['rgb', 'single', 'pca']);
    expect(modesOf(layerOf())).toEqual(['single']);
  });
});

test('classes have their colours, those switched off and unknown ones none', () => {
  const layer = layerOf({ kind: 'classes', nodata: 255 });
  const values = [Uint8Array.of(0, 3, 7, 255)];
  expect(paint(layer, {}, values, 4)).toEqual([0, 0, 255, 255, 0, 255, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
  expect(paint(layer, { off: [3] }, values, 2).slice(4)).toEqual([0, 0, 0, 0]);
});
