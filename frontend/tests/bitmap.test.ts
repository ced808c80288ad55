import { describe, expect, test } from 'vitest';
import { combine, emptyBitmap, overlaps, polygonBitmap, strokeBitmap, trace, type Bitmap, type Polygon } from '../src/viewer/bitmap';
import { shoelace } from '../src/viewer/measure';

function drawn(rows: string[], col = 0, row = 0): Bitmap {
  const bitmap = emptyBitmap(col, row, rows[0]!.length, rows.length);
  rows.forEach((text, y) => [...text].forEach((each, x) => (bitmap.on[y * bitmap.width + x] = each === '#' ? 1 : 0)));
  return bitmap;
}

/** Pixels of a bitmap as "col,row". */
function pixels(bitmap: Bitmap): string[] {
  const found: string[] = [];
  bitmap.on.forEach((on, i) => on && found.push(`${bitmap.col + (i % bitmap.width)},${bitmap.row + Math.floor(i / bitmap.width)}`));
  return found.sort();
}

const area = (polygon: Polygon): number =>
  polygon.reduce((sum, ring, i) => sum + (i ? -1 : 1) * shoelace(ring.slice(0, -1)), 0);

describe('tracing', () => {
  test('a bar is one ring of four corners', () => {
    expect(trace(drawn(['##'], 5, 7))).toEqual([[[[5, 7], [7, 7], [7, 8], [5, 8], [5, 7]]]]);
  });
  test('a hole belongs to what is around it, an island in it is another polygon', () => {
    const polygons = trace(drawn(['#####', '#...#', '#.#.#', '#...#', '#####']));
    expect(polygons.map((each) => each.length).sort()).toEqual([1, 2]);
    expect(polygons.map(area).sort((a, b) => a - b)).toEqual([1, 16]);
  });
  test('pixels that share a corner are apart, and holes that touch the edge by a corner are valid', () => {
    expect(trace(drawn(['#.', '.#'])).length).toBe(2);
    const ring = trace(drawn(['###', '#.#', '##.']));
    expect(ring.reduce((sum, each) => sum + area(each), 0)).toBe(7);
  });
  test('any bitmap comes back from its polygons', () => {
    let state = 7;
    for (let round = 0; round < 300; round++) {
      const bitmap = emptyBitmap(3, 11, 1 + (round % 9), 1 + (round % 7));
      bitmap.on.forEach((_, i) => {
        state = (state * 48271) % 2147483647;
        bitmap.on[i] = state % 3 === 0 ? 0 : 1;
      });
      const polygons = trace(bitmap);
      const back = polygons.map(polygonBitmap).reduce((a, b) => combine(a, b), emptyBitmap(3, 11, 0, 0));
      expect(pixels(back)).toEqual(pixels(bitmap));
      expect(polygons.reduce((sum, each) => sum + area(each), 0)).toBe(pixels(bitmap).length);
      for (const ring of polygons.flat()) expect(ring[0]).toEqual(ring[ring.length - 1]);
    }
  });
});

test('a stroke takes the pixels whose middle it covers, inside the scene', () => {
  expect(pixels(strokeBitmap([[2.5, 1.5]], 1, 10, 10))).toEqual(['1,1', '2,0', '2,1', '2,2', '3,1']);
  expect(pixels(strokeBitmap([[0.5, 0.5], [2.5, 0.5]], 0.6, 10, 10))).toEqual(['0,0', '1,0', '2,0']);
  expect(pixels(strokeBitmap([[0.1, 0.1]], 1, 10, 10))).toEqual(['0,0']);
  expect(pixels(strokeBitmap([[-50, -50]], 2, 10, 10))).toEqual([]);
});

test('pixels are joined, taken away and compared', () => {
  const a = drawn(['##'], 0, 0);
  const b = drawn(['##'], 1, 0);
  expect(pixels(combine(a, b))).toEqual(['0,0', '1,0', '2,0']);
  expect(pixels(combine(a, b, true))).toEqual(['0,0']);
  expect(overlaps(a, b)).toBe(true);
  expect(overlaps(a, drawn(['#'], 2, 0))).toBe(false);
});
