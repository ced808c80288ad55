import type { Band, Layer, View } from '../src/shared/contract';

export function bandOf(changes: Partial<Band> = {}): Band {
  return {
    name: 'b', unit: null, wavelength_um: null, factor: 1, summand: 0, least: 0, most: 255, low: 0, high: 100, ...changes,
  };
}

export function layerOf(changes: Partial<Layer> = {}): Layer {
  return {
    id: 'optical', title: 'Optical', role: 'modality', kind: 'image', href: 'o.tif', embedded: null,
    height: 100, width: 200, pixels: [1, 1], bands: [bandOf()], nodata: null, rgb: [], indices: [],
    components: null, names: [], ramp: 'viridis', is_shown: true, ...changes,
  };
}

export function viewOf(layers: Layer[], changes: Partial<View> = {}): View {
  return {
    format: 1, id: 'a scene', title: 'A', height: 100, width: 200,
    ground: { crs: null, unit: null, transform: [1, 0, 0, 0, -1, 0], pixel_metres: null, north: 0, lonlat: null },
    classes: [
      { value: 0, name: 'water', colour: '#0000ff', pixels: 1, area_ha: null },
      { value: 3, name: 'forest', colour: '#00ff00', pixels: 2, area_ha: null },
    ],
    layers, places: [], why: null, pixel: null, labelling: null, sampling: null, notes: [], ...changes,
  };
}
