/** The state of the page in its address, after the `#`, and back. */
import type { View } from '../shared/contract';
import { RAMPS, type RampName } from './ramps';
import { firstState, type Arrangement, type PageState, type Shown } from './state';
import { modesOf, type Mode, type Range, type Style } from './style';

/** The text after `#`. What stands as it began is left out. */
export function writeLink(state: PageState, first: PageState): string {
  const parts: [string, string][] = [['scene', encode(state.scene)]];
  parts.push(['at', state.centre.map((each) => round(each, 2)).join(',')]);
  if (state.zoom !== null) parts.push(['zoom', round(state.zoom, 3)]);
  parts.push(['layers', state.layers.map(writeShown).join(',')]);
  if (state.arrangement !== 'one') parts.push(['view', state.arrangement]);
  if (state.arrangement === 'swipe') {
    const { left, right, at } = state.swipe;
    parts.push(['swipe', [encode(left ?? ''), encode(right ?? ''), round(at, 3)].join(',')]);
  }
  if (state.arrangement === 'four') parts.push(['four', state.four.map((id) => encode(id ?? '')).join(',')]);
  if (state.selected) parts.push(['pixel', state.selected.join(',')]);
  const styles = state.layers.map((each) => writeStyle(each, first)).filter((each) => each !== '');
  if (styles.length) parts.push(['style', styles.join(';')]);
  return parts.map(([key, value]) => `${key}=${value}`).join('&');
}

/** The scene that a link names. */
export function linkedScene(link: string): string | null {
  const scene = partsOf(link).get('scene');
  return scene ? decode(scene) : null;
}

/** The state of a link for a view; what it does not know, or says of unknown layers, is left out. */
export function readLink(link: string, view: View): PageState {
  const state = firstState(view);
  const parts = partsOf(link);
  if (decode(parts.get('scene') ?? '') !== view.id) return state;
  const at = numbers(parts.get('at'));
  if (at?.length === 2) state.centre = [at[0]!, at[1]!];
  const [zoom] = numbers(parts.get('zoom')) ?? [];
  if (zoom !== undefined) state.zoom = Math.min(8, Math.max(-20, zoom));
  state.layers = readLayers(parts.get('layers'), state.layers);
  const arrangement = parts.get('view');
  if (arrangement === 'swipe' || arrangement === 'four') state.arrangement = arrangement as Arrangement;
  readSwipe(parts.get('swipe'), state);
  readFour(parts.get('four'), state);
  const pixel = numbers(parts.get('pixel'));
  if (pixel?.length === 2 && isInside(pixel as [number, number], view)) {
    state.selected = [Math.floor(pixel[0]!), Math.floor(pixel[1]!)];
  }
  for (const text of (parts.get('style') ?? '').split(';')) readStyle(text, state, view);
  return state;
}

function isInside([row, col]: [number, number], view: View): boolean {
  return row >= 0 && col >= 0 && row < view.height && col < view.width;
}

function partsOf(link: string): Map<string, string> {
  const pairs = link.replace(/^#/, '').split('&');
  return new Map(
    pairs.map((pair) => {
      const at = pair.indexOf('=');
      return [pair.slice(0, Math.max(at, 0)), pair.slice(at + 1)] as [string, string];
    }),
  );
}

/** Commas, semicolons, stars … separate; an id may hold them. */
function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*~-]/g, (c) => `%${c.charCodeAt(0).toString(16)}`);
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}

function round(value: number, places: number): string {
  return String(Number(value.toFixed(places)));
}

/** Numbers as they are, short. */
function exact(value: number): string {
  return String(Number(value.toPrecision(9)));
}

function numbers(text: string | undefined): number[] | null {
  if (!text) return null;
  const values = text.split(',').map(Number);
  return values.every(Number.isFinite) ? values : null;
}

function writeShown({ id, isShown, opacity }: Shown): string {
  return `${isShown ? '' : '-'}${encode(id)}${opacity < 1 ? `*${round(opacity, 2)}` : ''}`;
}

function readLayers(text: string | undefined, first: Shown[]): Shown[] {
  if (!text) return first;
  const left = new Map(first.map((each) => [each.id, each]));
  const read: Shown[] = [];
  for (const part of text.split(',')) {
    const [name, opacity] = part.replace(/^-/, '').split('*');
    const known = left.get(decode(name ?? ''));
    if (!known) continue;
    left.delete(known.id);
    const value = Number(opacity ?? 1);
    read.push({
      ...known,
      isShown: !part.startsWith('-'),
      opacity: Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : 1,
    });
  }
  // Layers that the link does not know lie below, hidden.
  return [...[...left.values()].map((each) => ({ ...each, isShown: false })), ...read];
}

function readSwipe(text: string | undefined, state: PageState): void {
  if (!text) return;
  const [left, right, at] = text.split(',');
  const known = (id: string | undefined): string | null =>
    state.layers.find((each) => each.id === decode(id ?? ''))?.id ?? null;
  const place = Number(at);
  state.swipe = {
    left: known(left) ?? state.swipe.left,
    right: known(right) ?? state.swipe.right,
    at: Number.isFinite(place) ? Math.min(1, Math.max(0, place)) : 0.5,
  };
}

function readFour(text: string | undefined, state: PageState): void {
  if (!text) return;
  const ids = text.split(',').map(decode);
  state.four = [0, 1, 2, 3].map((i) => state.layers.find((each) => each.id === ids[i])?.id ?? null);
}

function writeStyle({ id, style }: Shown, first: PageState): string {
  const before = first.layers.find((each) => each.id === id)?.style;
  if (!before || JSON.stringify(before) === JSON.stringify(style)) return '';
  const parts = [encode(id), `m~${style.mode}`, `b~${style.bands.join('.')}`];
  if (style.index !== null) parts.push(`i~${encode(style.index)}`);
  if (style.gamma !== 1) parts.push(`g~${round(style.gamma, 2)}`);
  parts.push(`r~${style.ramp}`);
  for (const [band, range] of Object.entries(style.ranges)) parts.push(`s${band}~${writeRange(range)}`);
  if (style.indexRange) parts.push(`x~${writeRange(style.indexRange)}`);
  style.pca.forEach((range, i) => range && parts.push(`p${i}~${writeRange(range)}`));
  if (style.off.length) parts.push(`o~${style.off.join('_')}`);
  return parts.join('*');
}

function writeRange(range: Range): string {
  return range.map(exact).join('_');
}

function readRange(text: string): Range | null {
  const [low, high] = text.split('_').map(Number);
  const isRange = Number.isFinite(low) && Number.isFinite(high) && high! > low!;
  return isRange ? [low!, high!] : null;
}

function readStyle(text: string, state: PageState, view: View): void {
  const [id, ...parts] = text.split('*');
  const shown = state.layers.find((each) => each.id === decode(id ?? ''));
  const layer = view.layers.find((each) => each.id === shown?.id);
  if (!shown || !layer) return;
  const style: Style = { ...shown.style, ranges: {}, pca: [null, null, null], off: [] };
  const isBand = (band: number): boolean => Number.isInteger(band) && band >= 0 && band < layer.bands.length;
  for (const part of parts) {
    const [key = '', value = ''] = part.split('~');
    if (key === 'm' && modesOf(layer).includes(value as Mode)) style.mode = value as Mode;
    else if (key === 'b') style.bands = value.split('.').map(Number).filter(isBand);
    else if (key === 'i' && layer.indices.some((each) => each.id === decode(value))) style.index = decode(value);
    else if (key === 'g') style.gamma = Math.min(4, Math.max(0.2, Number(value) || 1));
    else if (key === 'r' && RAMPS.includes(value as RampName)) style.ramp = value as RampName;
    else if (key === 'x') style.indexRange = readRange(value);
    else if (key === 'o') style.off = value.split('_').map(Number).filter(Number.isFinite);
    else if (/^p[012]$/.test(key)) style.pca[Number(key[1])] = readRange(value);
    else if (/^s\d+$/.test(key) && isBand(Number(key.slice(1)))) {
      const range = readRange(value);
      if (range) style.ranges[Number(key.slice(1))] = range;
    }
  }
  if (!style.bands.length) style.bands = shown.style.bands;
  shown.style = style;
}
