/** How a layer is painted, and the first way to do so. */
import type { Band, Layer } from '../shared/contract';
import type { RampName } from './ramps';

export type Mode = 'rgb' | 'single' | 'index' | 'pca' | 'classes' | 'number';
export type Range = [number, number];

/**
 * The style of a layer.
 *
 * bands: of `rgb` and, the first, of `single` and `number`.
 * ranges: stretch by band in physical units, where it is not the band's own.
 * pca: stretch of the components, likewise.
 */
export interface Style {
  mode: Mode;
  bands: number[];
  index: string | null;
  gamma: number;
  ramp: RampName;
  ranges: Record<number, Range>;
  indexRange: Range | null;
  pca: (Range | null)[];
  off: number[];
}

/** The style that a layer begins with. */
export function firstStyle(layer: Layer): Style {
  const rgb = layer.rgb.length ? [...layer.rgb] : [0];
  const mode: Mode =
    layer.kind === 'image'
      ? rgb.length >= 3
        ? 'rgb'
        : 'single'
      : layer.kind === 'number'
        ? 'number'
        : 'classes';
  return {
    mode,
    bands: rgb,
    index: layer.indices[0]?.id ?? null,
    gamma: 1,
    ramp: layer.kind === 'number' ? layer.ramp : 'gray',
    ranges: {},
    indexRange: null,
    pca: [null, null, null],
    off: [],
  };
}

/** Modes that a layer offers. */
export function modesOf(layer: Layer): Mode[] {
  if (layer.kind !== 'image') return [firstStyle(layer).mode];
  const modes: Mode[] = [];
  if (layer.bands.length >= 3) modes.push('rgb');
  modes.push('single');
  if (layer.indices.length) modes.push('index');
  if (layer.components) modes.push('pca');
  return modes;
}

/** Percentiles 2 and 98 of a band, or its extremes where they are equal or unknown. */
export function bandRange(band: Band | undefined): Range {
  const low = band?.low ?? band?.least ?? 0;
  const high = band?.high ?? band?.most ?? 1;
  if (high > low) return [low, high];
  const least = band?.least ?? low;
  const most = band?.most ?? high;
  return most > least ? [least, most] : [low, low + 1];
}

/** Stretch of a band in a style. */
export function rangeOf(layer: Layer, style: Style, band: number): Range {
  return style.ranges[band] ?? bandRange(layer.bands[band]);
}

/** Bands that a style reads, in the order in which the painter takes them. */
export function bandsRead(layer: Layer, style: Style): number[] {
  switch (style.mode) {
    case 'rgb':
      return [0, 1, 2].map((i) => style.bands[i] ?? style.bands[0] ?? 0);
    case 'index': {
      const index = layer.indices.find((each) => each.id === style.index);
      return index ? [index.a, index.b] : [0];
    }
    case 'pca':
      return layer.bands.map((_, i) => i);
    case 'classes':
      return [0];
    default:
      return [style.bands[0] ?? 0];
  }
}
