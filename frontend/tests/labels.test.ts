import { describe, expect, test, vi } from 'vitest';
import type { Labelling, Sampling } from '../src/shared/contract';
import { strokeBitmap, polygonBitmap } from '../src/viewer/bitmap';
import { ReadError } from '../src/viewer/data';
import { fromGeoJson, LabelHistory, LabelStore, paintOver, toGeoJson, type Painted } from '../src/viewer/labels';
import { SampleStore } from '../src/viewer/sample';

vi.hoisted(() => vi.stubGlobal('location', { protocol: 'http:' }));

const square = (id: string, name: string, at: number): Painted => ({
  id, class: name, polygon: [[[at, 0], [at + 4, 0], [at + 4, 4], [at, 4], [at, 0]]],
});
const count = ({ polygon }: Painted): number => polygonBitmap(polygon).on.reduce((a, b) => a + b, 0);
let made = 0;
const makeId = (): string => `new${++made}`;

describe('painting', () => {
  test('joins what it touches of its class and takes from others', () => {
    const stroke = strokeBitmap([[3.5, 0.5], [8.5, 0.5]], 0.4, 20, 20);
    const painted = paintOver([square('a', 'water', 0), square('b', 'forest', 8)], stroke, 'water', makeId);
    expect(painted.map((each) => [each.id, each.class, count(each)])).toEqual([['b', 'forest', 15], ['a', 'water', 21]]);
  });
  test('the eraser splits a polygon, and the parts have names of their own', () => {
    const stroke = strokeBitmap([[2.5, 0.5], [2.5, 3.5]], 0.4, 20, 20);
    const painted = paintOver([square('a', 'water', 0)], stroke, null, makeId);
    expect(painted.map(count).sort((a, b) => a - b)).toEqual([4, 8]);
    expect(new Set(painted.map((each) => each.id)).size).toBe(2);
  });
  test('far away changes nothing', () => {
    const before = [square('a', 'water', 0)];
    expect(paintOver(before, strokeBitmap([[15, 15]], 1, 20, 20), null, makeId)).toEqual(before);
  });
});

test('undo and redo go back and forth, a new change drops what was undone', () => {
  const history = new LabelHistory();
  const [a, b, c] = [square('a', 'x', 0), square('b', 'x', 5), square('c', 'x', 9)];
  history.change([a]);
  history.change([a, b]);
  expect(history.undo()).toBe(true);
  expect(history.polygons).toEqual([a]);
  expect(history.redo()).toBe(true);
  expect(history.polygons).toEqual([a, b]);
  history.undo();
  history.change([a, c]);
  expect(history.canRedo).toBe(false);
  history.undo();
  history.undo();
  expect(history.polygons).toEqual([]);
  expect(history.undo()).toBe(false);
});

test('polygons go through GeoJSON', () => {
  const polygons = [square('a', 'water', 0)];
  expect(fromGeoJson(JSON.parse(JSON.stringify(toGeoJson(polygons))))).toEqual(polygons);
  const { polygon } = polygons[0]!;
  const multi = { features: [{ properties: { id: 'm', class: 'w' }, geometry: { type: 'MultiPolygon', coordinates: [polygon, polygon] } }] };
  expect(fromGeoJson(multi).map((each) => [each.class, each.polygon])).toEqual([['w', polygon], ['w', polygon]]);
  expect(() => fromGeoJson({ error: 'x' })).toThrow('no features');
});

const LABELLING: Labelling = { classes: [], href: 'l', file: 'l.gpkg', split: 'train', is_used: true };

describe('saving', () => {
  test('sends the newest list after a change, with the tag of what it replaces', async () => {
    vi.useFakeTimers();
    const sent: RequestInit[] = [];
    const send = vi.fn((_: string, options: RequestInit = {}) => {
      sent.push(options);
      return Promise.resolve({ body: { features: [] }, etag: `"${sent.length}"` });
    });
    const states: string[] = [];
    const store = new LabelStore(LABELLING, 'l', () => states.push(store?.state), send);
    await store.load();
    store.change([square('a', 'x', 0)]);
    store.change([square('b', 'x', 0)]);
    expect(store.isSaved).toBe(false);
    await vi.advanceTimersByTimeAsync(1000);
    expect(sent.length).toBe(2);
    expect((sent[1]!.headers as Record<string, string>)['If-Match']).toBe('"1"');
    expect(JSON.parse(sent[1]!.body as string).features[0].properties.id).toBe('b');
    expect(store.state).toBe('saved');
    vi.useRealTimers();
  });
  test('a server that is away is asked again, one that refuses is not', async () => {
    vi.useFakeTimers();
    let error: Error | null = new ReadError('away');
    const send = vi.fn((_: string, options: RequestInit = {}) =>
      options.method === 'PUT' && error ? Promise.reject(error) : Promise.resolve({ body: { features: [] }, etag: null }),
    );
    const store = new LabelStore(LABELLING, 'l', () => undefined, send, [1000]);
    await store.load();
    store.change([square('a', 'x', 0)]);
    await vi.advanceTimersByTimeAsync(300);
    expect([store.state, store.message, store.isSaved]).toEqual(['failed', 'away', false]);
    error = null;
    await vi.advanceTimersByTimeAsync(1100);
    expect(store.state).toBe('saved');
    error = new ReadError('unknown class', 422);
    store.change([square('b', 'x', 0)]);
    await vi.advanceTimersByTimeAsync(60000);
    expect(store.state).toBe('failed');
    expect(send.mock.calls.filter(([, options]) => options?.method === 'PUT').length).toBe(3);
    vi.useRealTimers();
  });
  test('nothing can be drawn over what could not be read', async () => {
    const store = new LabelStore(LABELLING, 'l', () => undefined, () => Promise.reject(new ReadError('broken', 500)));
    await store.load();
    store.change([square('a', 'x', 0)]);
    expect([store.state, store.history.polygons.length]).toEqual(['unreadable', 0]);
  });
});

test('points of a sample are saved, and the next one without a class comes', async () => {
  const sampling: Sampling = { classes: ['x', 'y'], href: 's', file: 's', ids: [11, 12, 13], is_blind: false };
  const sent: unknown[] = [];
  const send = vi.fn((_: string, options: RequestInit = {}) => {
    if (options.body) sent.push(JSON.parse(options.body as string));
    return Promise.resolve({ body: { labels: { 12: 'x', 13: null } }, etag: null });
  });
  const store = new SampleStore(sampling, 's', () => undefined, send);
  await store.load();
  expect([store.done, store.nextOpen(0)]).toEqual([1, 2]);
  store.set(0, 'y');
  await vi.waitFor(() => expect(store.isSaved).toBe(true));
  expect(sent).toEqual([{ labels: { 11: 'y' } }]);
  expect(store.nextOpen(2)).toBe(2);
  store.set(2, 'x');
  expect(store.nextOpen(2)).toBeNull();
});
