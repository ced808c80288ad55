import { describe, expect, it } from 'vitest';
import type { ModelCard } from '../src/jobs/card';
import { addSources, emptyDraft, fromRequest, problems, removeSource, toggled, toRequest } from '../src/jobs/draft';
import { follow, type Source } from '../src/jobs/events';
import { bytes, duration, percent, progress, share, when } from '../src/jobs/format';
import { JobStore } from '../src/jobs/store';
import type { Job } from '../src/shared/contract';

function job(id: string, parts: Partial<Job> = {}): Job {
  return {
    id,
    model: 'm',
    title: '',
    user: 'local',
    state: 'queued',
    priority: 0,
    created: `2026-03-01T10:00:0${id.length}Z`,
    started: null,
    ended: null,
    done: 0,
    total: null,
    attempts: 0,
    worker: null,
    error: null,
    request: {},
    results: [],
    view: null,
    tilejson: null,
    ...parts,
  };
}

const at = (second: number) => `2026-03-01T10:00:${String(second).padStart(2, '0')}Z`;
const both: ModelCard = {
  name: 'both',
  method: 'late_fusion',
  modalities: [
    { name: 'optical', kind: 'optical', bands: ['red', 'nir'], unit: 'reflectance' },
    { name: 'sar', kind: 'sar', bands: ['VV'], unit: null },
  ],
  classes: [{ name: 'water', color: '#0000ff' }],
  scores: {},
  licence: null,
  crop_size: 256,
  overlap: 64,
  supports_missing: false,
};
const raster = (value: string) => ({ value, label: value, bytes: null });

describe('figures', () => {
  it('counts bytes by thousands', () => {
    expect([0, 999, 1000, 1536, 9949, 9951, 999_499, 999_501, 2.5e9].map(bytes)).toEqual([
      '0 B', '999 B', '1.0 kB', '1.5 kB', '9.9 kB', '10 kB', '999 kB', '1.0 MB', '2.5 GB',
    ]);
  });
  it('says how long', () => {
    expect([0.4, 59.4, 61, 599, 605, 3725, -5].map(duration)).toEqual([
      '0 s', '59 s', '1 min 1 s', '9 min 59 s', '10 min', '1 h 2 min', '0 s',
    ]);
  });
  it('says when', () => {
    const now = Date.parse(at(0));
    expect(when(at(0), now + 59_000)).toBe('just now');
    expect(when(at(0), now + 119_000)).toBe('1 min ago');
    expect(when(at(0), now + 7_300_000)).toBe('2 h ago');
    expect(when(at(0), now + 90_000_000)).toContain('2026');
  });
  it('knows the share of the work, if there is one', () => {
    expect(share(job('a'))).toBeNull();
    expect(share(job('a', { done: 3, total: 12 }))).toBe(0.25);
    expect(share(job('a', { total: 0 }))).toBe(0);
    expect(share(job('a', { state: 'done', total: null }))).toBe(1);
    // Never 100 % before the end.
    expect(progress(job('a', { state: 'running', done: 199, total: 200 }))).toBe('199 of 200 units, 99 %');
    expect(progress(job('a', { state: 'running' }))).toBe('starting');
    expect(progress(job('a', { state: 'running', done: 0, total: 1 }))).toBe('0 of 1 unit, 0 %');
    expect(progress(job('a', { state: 'running', done: 9, total: 9 }))).toBe('writing the files');
    expect(percent(0.55976)).toBe('56.0 %');
  });
});

describe('the draft', () => {
  it('names what is missing, in the order of the form', () => {
    const draft = { ...emptyDraft('both'), products: [] };
    expect(problems(draft, null).map((each) => each.field)).toEqual(['model']);
    expect(problems(draft, both).map((each) => each.field)).toEqual(['input:optical', 'input:sar', 'products']);
    const filled = addSources(addSources(draft, 'optical', [raster('a.tif')]), 'sar', [raster('b.tif')]);
    expect(problems({ ...filled, products: ['class_map'] }, both)).toEqual([]);
    const found = problems({ ...filled, products: ['entropy'], outputs: ['polygons', 'areas'] }, both);
    expect(found).toEqual([
      { field: 'outputs', text: 'Polygons and areas are made of the class map: choose it too.' },
    ]);
  });
  it('asks for one raster at least of models that map without a modality', () => {
    const lenient = { ...both, supports_missing: true };
    const draft = emptyDraft('both');
    expect(problems(draft, lenient).map((each) => each.field)).toEqual(['input:optical']);
    expect(problems(addSources(draft, 'sar', [raster('b.tif')]), lenient)).toEqual([]);
  });
  it('keeps a raster once', () => {
    let draft = addSources(emptyDraft('both'), 'sar', [raster('a'), raster('b'), raster('a')]);
    draft = addSources(draft, 'sar', [raster('b'), raster('c')]);
    expect(draft.inputs.sar!.map((each) => each.value)).toEqual(['a', 'b', 'c']);
    expect(removeSource(draft, 'sar', 'b').inputs.sar!.map((each) => each.value)).toEqual(['a', 'c']);
  });
  it('becomes a request of what the model takes', () => {
    let draft = addSources(emptyDraft('both'), 'optical', [raster('a'), raster('b')]);
    draft = addSources(draft, 'sar', [raster('upload:1')]);
    draft = addSources(draft, 'dsm', [raster('not taken')]);
    draft = { ...draft, title: ' North ', convert: { sar: ' db ', optical: ' ', dsm: '2' } };
    expect(toRequest(draft, both)).toEqual({
      model: 'both',
      rasters: { optical: ['a', 'b'], sar: 'upload:1' },
      products: ['class_map', 'confidence'],
      outputs: ['preview'],
      tta: [],
      priority: 0,
      title: 'North',
      convert: { sar: 'db' },
      trust_values: false,
      item: null,
      crop_size: null,
      overlap: null,
    });
  });
  it('names rasters, or an item that does', () => {
    const draft = { ...emptyDraft('both'), item: ' https://a.org/item.json ', convert: { sar: 'db' } };
    expect(problems(draft, both)).toEqual([]);
    expect(toRequest(draft, both)).toMatchObject({
      rasters: {},
      item: 'https://a.org/item.json',
      convert: { sar: 'db' },
    });
    const twice = addSources(draft, 'sar', [raster('b.tif')]);
    expect(problems(twice, both).map((each) => each.field)).toEqual(['item']);
    expect(problems({ ...draft, item: ' ' }, both).map((each) => each.field)).toEqual([
      'input:optical', 'input:sar',
    ]);
  });
  it('takes windows of whole pixels', () => {
    const draft = { ...emptyDraft('both'), item: 'https://a.org/item.json', overlap: 0 };
    expect(problems(draft, both)).toEqual([]);
    expect(toRequest(draft, both)).toMatchObject({ crop_size: null, overlap: 0 });
    for (const sizes of [{ cropSize: 12.5 }, { overlap: NaN }]) {
      expect(problems({ ...draft, ...sizes }, both).map((each) => each.field)).toEqual(['windows']);
    }
  });
  it('comes back from the request it became', () => {
    const request = {
      model: 'both',
      rasters: { optical: ['a', 'b'], sar: 'c' },
      products: ['class_map', 'entropy'],
      outputs: ['areas' as const],
      tta: ['flips'],
      priority: -3,
      title: 'North',
      convert: { sar: 'db' },
      trust_values: true,
      item: null,
      crop_size: 128,
      overlap: 0,
    };
    expect(toRequest(fromRequest(request), both)).toEqual(request);
    const byItem = { ...request, rasters: {}, item: 'https://a.org/item.json' };
    expect(toRequest(fromRequest(byItem), both)).toEqual(byItem);
  });
  it('keeps the order of a list when one is switched', () => {
    expect(toggled(['c', 'a'], 'b', true, ['a', 'b', 'c'])).toEqual(['a', 'b', 'c']);
    expect(toggled(['a', 'b'], 'a', false, ['a', 'b', 'c'])).toEqual(['b']);
  });
});

describe('the store', () => {
  it('keeps what an event said after a list was asked for', () => {
    const store = new JobStore();
    store.put(job('a', { state: 'running', done: 1 }));
    const asked = store.moment();
    store.put(job('a', { state: 'running', done: 5 }));
    store.merge([job('a', { state: 'running', done: 2 })], asked, true);
    expect(store.get('a')!.done).toBe(5);
    store.merge([job('a', { state: 'running', done: 7 })], store.moment(), true);
    expect(store.get('a')!.done).toBe(7);
  });
  it('forgets jobs that are gone, and keeps those a list cannot know', () => {
    const store = new JobStore();
    for (const [id, second] of [['old', 1], ['gone', 5], ['new', 9]] as const) {
      store.put(job(id, { created: at(second) }));
    }
    const asked = store.moment();
    store.put(job('newer', { created: at(10) }));
    store.merge([job('new', { created: at(9) }), job('mid', { created: at(4) })], asked, false);
    expect(store.all().map((each) => each.id)).toEqual(['newer', 'new', 'mid', 'old']);
    store.merge([], store.moment(), true);
    expect(store.all()).toEqual([]);
  });
  it('does not bring back what was deleted after a list was asked for', () => {
    const store = new JobStore();
    store.put(job('a'));
    const asked = store.moment();
    store.remove('a');
    store.merge([job('a')], asked, true);
    expect(store.all()).toEqual([]);
  });
  it('sorts, filters and counts', () => {
    const store = new JobStore();
    const states = ['done', 'queued', 'failed', 'running', 'cancelled', 'cancelling'] as const;
    states.forEach((state, i) => store.put(job(state, { state, created: at(i) })));
    expect(store.all().map((each) => each.id)).toEqual([...states].reverse());
    expect(store.all('active').map((each) => each.id)).toEqual(['cancelling', 'running', 'queued']);
    expect(store.counts()).toEqual({ all: 6, active: 3, done: 1, failed: 2 });
    // Those at work first, then the one that has waited longest.
    store.put(job('late', { created: at(9) }));
    expect(store.followed(3)).toEqual(['running', 'cancelling', 'queued']);
  });
});

class Played implements Source {
  readyState = 0;
  private readonly listeners = new Map<string, ((event: Event) => void)[]>();
  addEventListener(type: string, listener: (event: Event) => void): void {
    this.listeners.set(type, [...(this.listeners.get(type) ?? []), listener]);
  }
  close(): void {
    this.readyState = 2;
  }
  play(type: string, data?: unknown): void {
    const event = { type, data: data === undefined ? undefined : JSON.stringify(data) };
    for (const each of this.listeners.get(type) ?? []) each(event as unknown as Event);
  }
}

describe('events', () => {
  function setUp() {
    const sources: Played[] = [];
    const waits: number[] = [];
    let pending: () => void = () => undefined;
    const seen: Job[] = [];
    let ends = 0;
    const stream = follow(
      'events',
      { change: (part) => seen.push(part), over: () => (ends += 1) },
      () => {
        sources.push(new Played());
        return sources.at(-1)!;
      },
      {
        setTimeout: (call, milliseconds) => {
          waits.push(milliseconds);
          pending = call;
          return waits.length;
        },
        clearTimeout: () => {
          pending = () => undefined;
        },
      },
    );
    return { stream, sources, waits, seen, again: () => pending(), ends: () => ends };
  }

  it('tell of changes until the job ends', () => {
    const { sources, seen, ends } = setUp();
    const states = [job('a', { done: 1 }), job('a', { state: 'done' })];
    for (const each of states) sources[0]!.play('message', each);
    expect(ends()).toBe(0);
    sources[0]!.play('end', 'done');
    sources[0]!.play('message', job('a'));
    expect(seen).toEqual(states);
    expect(ends()).toBe(1);
    expect(sources[0]!.readyState).toBe(2);
  });
  it('leave a broken connection to the browser', () => {
    const { sources, waits } = setUp();
    sources[0]!.play('error');
    expect([sources.length, waits]).toEqual([1, []]);
  });
  it('try again, later each time, when the browser gave up', () => {
    const { sources, waits, again } = setUp();
    for (let i = 0; i < 7; i += 1) {
      sources.at(-1)!.close();
      sources.at(-1)!.play('error');
      again();
    }
    expect(waits).toEqual([1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    sources.at(-1)!.play('message', job('a'));
    sources.at(-1)!.close();
    sources.at(-1)!.play('error');
    expect(waits.at(-1)).toBe(1000);
  });
  it('are silent once closed', () => {
    const { stream, sources, seen, waits } = setUp();
    stream.close();
    sources[0]!.play('message', job('a'));
    sources[0]!.play('error');
    expect([seen, waits]).toEqual([[], []]);
  });
  it('pass over what is no message of the service', () => {
    const { sources, seen } = setUp();
    sources[0]!.play('message');
    sources[0]!.play('message', 5);
    expect(seen).toEqual([]);
  });
});
