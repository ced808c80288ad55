/** Polygons of classes: what is drawn, undone, and saved after every stroke. */
import type { Labelling } from '../shared/contract';
import { combine, overlaps, polygonBitmap, trace, type Bitmap, type Polygon } from './bitmap';
import { ReadError, request } from './data';

export interface Painted {
  id: string;
  class: string;
  polygon: Polygon;
}

export type SaveState = 'loading' | 'saved' | 'waiting' | 'saving' | 'failed' | 'unreadable';

interface Feature {
  type: 'Feature';
  id?: string | number;
  properties: Record<string, unknown> | null;
  geometry: { type: string; coordinates: unknown } | null;
}

const MOST_UNDONE = 200;

/** Polygons with undo and redo: every change makes a new list, and lists are kept. */
export class LabelHistory {
  private past: Painted[][] = [];
  private future: Painted[][] = [];

  constructor(private current: readonly Painted[] = []) {}

  get polygons(): readonly Painted[] {
    return this.current;
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  change(polygons: Painted[]): void {
    this.past.push([...this.current]);
    if (this.past.length > MOST_UNDONE) this.past.shift();
    this.future = [];
    this.current = polygons;
  }

  undo(): boolean {
    const before = this.past.pop();
    if (!before) return false;
    this.future.push([...this.current]);
    this.current = before;
    return true;
  }

  redo(): boolean {
    const after = this.future.pop();
    if (!after) return false;
    this.past.push([...this.current]);
    this.current = after;
    return true;
  }
}

/** A name for a polygon: unique without a server. */
export function newId(): string {
  return globalThis.crypto.randomUUID?.() ?? `p${Date.now().toString(36)}${Math.random().toString(36).slice(2, 10)}`;
}

/**
 * The polygons after a stroke. Its pixels join those of the same class that they touch, and are
 * taken from others; with class null they are only taken away.
 */
export function paintOver(
  polygons: readonly Painted[],
  stroke: Bitmap,
  name: string | null,
  makeId: () => string = newId,
): Painted[] {
  const result: Painted[] = [];
  let grown = stroke;
  let id: string | null = null;
  for (const each of polygons) {
    const pixels = near(each.polygon, stroke) ? polygonBitmap(each.polygon) : null;
    if (!pixels || !overlaps(pixels, stroke)) {
      result.push(each);
    } else if (each.class === name) {
      grown = combine(grown, pixels);
      id ??= each.id;
    } else {
      const left = trace(combine(pixels, stroke, true));
      left.forEach((polygon, i) => result.push({ ...each, id: i === 0 ? each.id : makeId(), polygon }));
    }
  }
  if (name === null) return result;
  trace(grown).forEach((polygon, i) => {
    result.push({ id: i === 0 && id ? id : makeId(), class: name, polygon });
  });
  return result;
}

function near(polygon: Polygon, { col, row, width, height }: Bitmap): boolean {
  const outer = polygon[0]!;
  const [xs, ys] = [outer.map((p) => p[0]), outer.map((p) => p[1])];
  return (
    Math.min(...xs) <= col + width && Math.max(...xs) >= col && Math.min(...ys) <= row + height && Math.max(...ys) >= row
  );
}

/** Polygons as GeoJSON in scene pixels. */
export function toGeoJson(polygons: readonly Painted[]): object {
  return {
    type: 'FeatureCollection',
    features: polygons.map(({ id, class: name, polygon }) => ({
      type: 'Feature',
      properties: { id, class: name },
      geometry: { type: 'Polygon', coordinates: polygon },
    })),
  };
}

/** Polygons of GeoJSON; multipolygons become their parts. */
export function fromGeoJson(body: unknown): Painted[] {
  const features = (body as { features?: Feature[] } | null)?.features;
  if (!Array.isArray(features)) throw new ReadError('The saved polygons cannot be read: no features in the answer.');
  return features.flatMap((feature) => {
    const { geometry, properties } = feature;
    if (!geometry) return [];
    const parts = (geometry.type === 'MultiPolygon' ? geometry.coordinates : [geometry.coordinates]) as Polygon[];
    const id = String(properties?.['id'] ?? feature.id ?? newId());
    return parts.map((polygon, i) => ({
      id: i === 0 ? id : newId(),
      class: String(properties?.['class'] ?? ''),
      polygon,
    }));
  });
}

/** Saves the newest list; one request at a time, tried again after a while when it fails. */
export class LabelStore {
  history = new LabelHistory();
  state: SaveState = 'loading';
  message = '';
  /** Whether somebody else saved in between. */
  isStale = false;
  private etag: string | null = null;
  private isSending = false;
  private isDirty = false;
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly labelling: Labelling,
    private readonly address: string,
    private readonly onchange: () => void,
    private readonly send: typeof request = request,
    private readonly pauses: number[] = [1000, 3000, 10000, 30000],
  ) {}

  get isSaved(): boolean {
    return this.state === 'saved' || this.state === 'loading' || this.state === 'unreadable';
  }

  /** Whether something can be drawn: not before what is saved has been read. */
  get isReady(): boolean {
    return this.state !== 'loading' && this.state !== 'unreadable';
  }

  async load(): Promise<void> {
    this.become('loading');
    try {
      const { body, etag } = await this.send(this.address);
      this.etag = etag;
      this.history = new LabelHistory(fromGeoJson(body));
      this.isDirty = false;
      this.become('saved');
    } catch (error) {
      this.become('unreadable', String((error as Error).message));
    }
  }

  /** Take a changed list; it is saved a moment later. */
  change(polygons: Painted[]): void {
    if (!this.isReady) return;
    this.history.change(polygons);
    this.later();
  }

  undo(): void {
    if (this.isReady && this.history.undo()) this.later();
  }

  redo(): void {
    if (this.isReady && this.history.redo()) this.later();
  }

  /** Save now. */
  async save(): Promise<void> {
    clearTimeout(this.timer);
    if (this.isSending) return;
    this.isSending = true;
    this.isDirty = false;
    this.become('saving');
    try {
      const headers: Record<string, string> = { 'Content-Type': 'application/geo+json' };
      if (this.etag) headers['If-Match'] = this.etag;
      const body = JSON.stringify(toGeoJson(this.history.polygons));
      const { etag } = await this.send(this.address, { method: 'PUT', headers, body });
      this.etag = etag;
      this.failures = 0;
      this.isSending = false;
      if (this.isDirty) await this.save();
      else this.become('saved');
    } catch (error) {
      this.isSending = false;
      this.isDirty = true;
      this.fail(error as ReadError);
    }
  }

  private fail(error: ReadError): void {
    this.isStale = error.status === 409 || error.status === 412;
    this.become('failed', error.message);
    // What the server refuses (4xx) it refuses again; where it is away or ill, it may come back.
    if (error.status >= 400 && error.status < 500) return;
    const pause = this.pauses[Math.min(this.failures, this.pauses.length - 1)]!;
    this.failures += 1;
    this.timer = setTimeout(() => void this.save(), pause);
  }

  private later(): void {
    this.isDirty = true;
    clearTimeout(this.timer);
    if (this.isSending) {
      this.onchange();
      return;
    }
    this.become('waiting');
    this.timer = setTimeout(() => void this.save(), 250);
  }

  private become(state: SaveState, message = ''): void {
    this.state = state;
    this.message = message;
    this.onchange();
  }
}
