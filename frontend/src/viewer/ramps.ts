/** Colour ramps and colours. viridis and magma: Smith and van der Walt (CC0). */

export type Rgb = [number, number, number];
export type RampName = 'viridis' | 'magma' | 'gray' | 'blues' | 'greens';

const STOPS: Record<RampName, string[]> = {
  viridis: ['440154', '482878', '3e4989', '31688e', '26828e', '1f9e89', '35b779', '6ece58', 'b5de2b', 'fde725'],
  magma: ['000004', '180f3d', '440f76', '721f81', '9e2f7f', 'cd4071', 'f1605d', 'fd9668', 'feca8d', 'fcfdbf'],
  gray: ['000000', 'ffffff'],
  blues: ['f4f8fc', 'd5e5f2', 'a5cde2', '6aadd2', '3a86bd', '145aa0', '07306b'],
  greens: ['7a4a1e', 'b98d50', 'e3d3a8', 'f3f0dc', 'b7d59a', '5fa95a', '14642f'],
};

export const RAMPS = Object.keys(STOPS) as RampName[];

/** Red, green and blue of "#1f6b4a". */
export function parseColour(text: string): Rgb {
  const number = Number.parseInt(text.replace('#', ''), 16);
  return [(number >> 16) & 255, (number >> 8) & 255, number & 255];
}

/** A ramp in 256 steps, (256 · 3) bytes. */
export function rampTable(name: RampName): Uint8ClampedArray {
  const stops = STOPS[name].map(parseColour);
  const table = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1);
    const k = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      table[i * 3 + c] = stops[k]![c]! + (at - k) * (stops[k + 1]![c]! - stops[k]![c]!);
    }
  }
  return table;
}

/** The ramp as a CSS gradient from left to right. */
export function rampGradient(name: RampName): string {
  return `linear-gradient(to right, ${STOPS[name].map((stop) => `#${stop}`).join(', ')})`;
}
