import { describe, expect, test, vi } from 'vitest';
import { ByteLru } from '../src/viewer/lru';
import { layerOf } from './made';

vi.hoisted(() => vi.stubGlobal('location', { protocol: 'http:' }));
const { indices, levelFor, resolutionsOf } = await import('../src/viewer/tiles');
const { Queue, scaleOf } = await import('../src/viewer/raster');
const { scaleBar } = await import('../src/viewer/frame');

describe('what was used last', () => {
  test('stays, up to a number of bytes', () => {
    const kept = new ByteLru<string>(100);
    kept.set('a', 'A', 40);
    kept.set('b', 'B', 40);
    expect(kept.get('a')).toBe('A');
    kept.set('c', 'C', 40);
    expect([kept.get('a'), kept.get('b'), kept.get('c'), kept.bytes]).toEqual(['A', undefined, 'C', 80]);
    kept.set('a', 'A2', 10);
    expect([kept.get('a'), kept.bytes]).toEqual(['A2', 50]);
    kept.set('huge', 'H', 500);
    expect([kept.get('huge'), kept.get('a'), kept.bytes]).toEqual(['H', undefined, 500]);
  });
});

describe('levels', () => {
  test('overviews by halves round up', () => {
    expect(scaleOf(5, 3)).toBe(2);
    expect(scaleOf(1001, 126)).toBe(8);
    expect(scaleOf(1000, 333)).toBeCloseTo(3.003, 3);
  });
  test('the coarsest that is fine enough is read', () => {
    const levels = [1, 2, 4].map((each) => ({ scale: [each, each] as [number, number] }));
    expect([0.5, 1, 3, 4, 99].map((each) => levelFor(levels, 1, each))).toEqual([0, 0, 1, 2, 2]);
    expect([1, 2, 4].map((each) => levelFor(levels, 2, each))).toEqual([0, 0, 1]);
  });
  test('tiles go down to the pixels of the layer', () => {
    expect(resolutionsOf(layerOf({ height: 1000, width: 300 }))).toEqual([4, 2, 1]);
    expect(resolutionsOf(layerOf({ height: 1000, width: 300, pixels: [0.5, 0.5] })).at(-1)).toBe(0.5);
    expect(resolutionsOf(layerOf({ height: 100, width: 100, pixels: [3, 3] })).at(-1)).toBeLessThan(1);
  });
  test('a tile takes the pixel under the middle of each of its own', () => {
    const found = indices(256, 1, 2, 200);
    expect([found[0], found[1], found[2], found[143], found[144]]).toEqual([128, 128, 129, 199, -1]);
    expect(indices(-4, 1, 1, 200)[3]).toBe(-1);
  });
});

test('what was asked for last is read first', async () => {
  const queue = new Queue(1);
  const order: number[] = [];
  let open = (): void => undefined;
  const first = queue.run(() => new Promise<void>((go) => (open = go)));
  const others = [1, 2, 3].map((each) => queue.run(async () => void order.push(each)));
  open();
  await Promise.all([first, ...others]);
  expect(order).toEqual([3, 2, 1]);
});

test('the bar of the scale has a round length that fits', () => {
  expect(scaleBar(10)).toEqual({ length: 500, pixels: 50 });
  expect(scaleBar(0.4)).toEqual({ length: 20, pixels: 50 });
});
