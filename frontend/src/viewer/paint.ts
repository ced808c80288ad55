/** From kept values to colours, without reading again. */
import type { ClassEntry, Layer } from '../shared/contract';
import { parseColour, rampTable } from './ramps';
import { bandsRead, rangeOf, type Range, type Style } from './style';

export type Values =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array;

/** Writes the colour of pixel `from` of the bands at pixel `to` of an RGBA picture. */
export type Painter = (bands: Values[], from: number, out: Uint8ClampedArray, to: number) => void;

const STEPS = 1024;

/** A function that paints a layer's pixels; its bands come in the order of `bandsRead`. */
export function painterOf(layer: Layer, style: Style, classes: ClassEntry[]): Painter {
  switch (style.mode) {
    case 'rgb':
      return rgbPainter(layer, style);
    case 'index':
      return indexPainter(layer, style);
    case 'pca':
      return pcaPainter(layer, style);
    case 'classes':
      return classPainter(layer, layer.kind === 'names' ? layer.names : classes, style.off);
    default:
      return rampPainter(layer, style);
  }
}

/** Whether a stored value is none. */
export function isMissing(value: number, nodata: Layer['nodata']): boolean {
  return Number.isNaN(value) || value === nodata;
}

/** 0 to 255 by gamma, in steps of the stretch. */
function gammaTable(gamma: number): Uint8ClampedArray {
  const table = new Uint8ClampedArray(STEPS);
  for (let i = 0; i < STEPS; i++) table[i] = 255 * (i / (STEPS - 1)) ** (1 / gamma);
  return table;
}

/** Step of a stored value in a stretch that is given in physical units. */
function stepper(factor: number, summand: number, [low, high]: Range): (stored: number) => number {
  const scale = (factor / (high - low)) * (STEPS - 1);
  const shift = ((summand - low) / (high - low)) * (STEPS - 1) + 0.5;
  return (stored) => {
    const step = stored * scale + shift;
    return step <= 0 ? 0 : step >= STEPS - 1 ? STEPS - 1 : step | 0;
  };
}

function bandStepper(layer: Layer, style: Style, band: number): (stored: number) => number {
  const { factor, summand } = layer.bands[band] ?? { factor: 1, summand: 0 };
  return stepper(factor, summand, rangeOf(layer, style, band));
}

function rgbPainter(layer: Layer, style: Style): Painter {
  const steps = bandsRead(layer, style).map((band) => bandStepper(layer, style, band));
  const [red, green, blue] = steps as [(v: number) => number, (v: number) => number, (v: number) => number];
  const table = gammaTable(style.gamma);
  const nodata = layer.nodata;
  return (bands, from, out, to) => {
    const r = bands[0]![from]!;
    const g = bands[1]![from]!;
    const b = bands[2]![from]!;
    if (isMissing(r, nodata) || isMissing(g, nodata) || isMissing(b, nodata)) return;
    out[to] = table[red(r)]!;
    out[to + 1] = table[green(g)]!;
    out[to + 2] = table[blue(b)]!;
    out[to + 3] = 255;
  };
}

function rampPainter(layer: Layer, style: Style): Painter {
  const step = bandStepper(layer, style, style.bands[0] ?? 0);
  const table = gammaTable(style.gamma);
  const ramp = rampTable(style.ramp);
  const nodata = layer.nodata;
  return (bands, from, out, to) => {
    const value = bands[0]![from]!;
    if (!isMissing(value, nodata)) put(ramp, table[step(value)]!, out, to);
  };
}

/** Normalised difference of two values; NaN where their sum is none. */
export function normalisedDifference(a: number, b: number): number {
  return a + b === 0 ? NaN : (a - b) / (a + b);
}

/** The range in which an index is shown. */
export function indexRangeOf(style: Style): Range {
  return style.indexRange ?? [-1, 1];
}

function indexPainter(layer: Layer, style: Style): Painter {
  const [a, b] = bandsRead(layer, style).map((band) => layer.bands[band]!);
  const step = stepper(1, 0, indexRangeOf(style));
  const ramp = rampTable(style.ramp === 'gray' ? 'greens' : style.ramp);
  const table = gammaTable(style.gamma);
  const nodata = layer.nodata;
  return (bands, from, out, to) => {
    const first = bands[0]![from]!;
    const second = bands[1]![from]!;
    if (isMissing(first, nodata) || isMissing(second, nodata)) return;
    const value = normalisedDifference(
      first * a!.factor + a!.summand,
      second * b!.factor + b!.summand,
    );
    if (!Number.isNaN(value)) put(ramp, table[step(value)]!, out, to);
  };
}

/** Stretch of the three components in a style. */
export function pcaRanges(layer: Layer, style: Style): Range[] {
  return [0, 1, 2].map((i) => {
    const own: Range = [layer.components!.low[i]!, layer.components!.high[i]!];
    return style.pca[i] ?? (own[1] > own[0] ? own : [own[0], own[0] + 1]);
  });
}

/** A component of physical values: weights times the distance from the mean. */
export function component(values: number[], mean: number[], axis: number[]): number {
  return values.reduce((sum, value, i) => sum + axis[i]! * (value - mean[i]!), 0);
}

function pcaPainter(layer: Layer, style: Style): Painter {
  const { mean, axes } = layer.components!;
  const steps = pcaRanges(layer, style).map((range) => stepper(1, 0, range));
  const table = gammaTable(style.gamma);
  const nodata = layer.nodata;
  // Physical values and the mean are folded into weights of stored values and one summand.
  const weights = axes.map((axis) => Float64Array.from(axis, (w, i) => w * layer.bands[i]!.factor));
  const shifts = axes.map((axis) =>
    axis.reduce((sum, w, i) => sum + w * (layer.bands[i]!.summand - mean[i]!), 0),
  );
  return (bands, from, out, to) => {
    for (const band of bands) if (isMissing(band[from]!, nodata)) return;
    for (let c = 0; c < 3; c++) {
      const weight = weights[c]!;
      let sum = shifts[c]!;
      for (let i = 0; i < bands.length; i++) sum += weight[i]! * bands[i]![from]!;
      out[to + c] = table[steps[c]!(sum)]!;
    }
    out[to + 3] = 255;
  };
}

function classPainter(layer: Layer, entries: ClassEntry[], off: number[]): Painter {
  const colours = new Map(
    entries.filter((each) => !off.includes(each.value)).map((each) => [each.value, parseColour(each.colour)]),
  );
  const nodata = layer.nodata;
  return (bands, from, out, to) => {
    const value = bands[0]![from]!;
    const colour = isMissing(value, nodata) ? undefined : colours.get(value);
    if (!colour) return;
    out[to] = colour[0];
    out[to + 1] = colour[1];
    out[to + 2] = colour[2];
    out[to + 3] = 255;
  };
}

function put(ramp: Uint8ClampedArray, step: number, out: Uint8ClampedArray, to: number): void {
  out[to] = ramp[step * 3]!;
  out[to + 1] = ramp[step * 3 + 1]!;
  out[to + 2] = ramp[step * 3 + 2]!;
  out[to + 3] = 255;
}
