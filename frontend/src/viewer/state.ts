/** What the page shows: all that a permalink keeps. */
import type { Layer, View } from '../shared/contract';
import { firstStyle, type Style } from './style';

export type Arrangement = 'one' | 'swipe' | 'four';

/** A layer as it stands in the list, bottom first. */
export interface Shown {
  id: string;
  isShown: boolean;
  opacity: number;
  style: Style;
}

export interface PageState {
  scene: string;
  centre: [number, number];
  /** Pixels of the page per pixel of the scene, as a power of two. */
  zoom: number | null;
  layers: Shown[];
  arrangement: Arrangement;
  /** Layers left and right of the bar, and where it is (0 to 1). */
  swipe: { left: string | null; right: string | null; at: number };
  /** Layer of each of four maps; null: as in the list. */
  four: (string | null)[];
  /** [row, col] */
  selected: [number, number] | null;
}

const ORDER: Layer['role'][] = [
  'modality', 'subset', 'other', 'probability', 'attribution', 'entropy', 'confidence',
  'class_map', 'truth', 'difference',
]; // prettier-ignore

/** Roles that a blind sample hides: the class map and what is made of it. */
export const FROM_MAP: Layer['role'][] = [
  'class_map', 'difference', 'confidence', 'entropy', 'probability', 'attribution', 'subset',
]; // prettier-ignore

/** Layers that the page may show at all. */
export function visibleLayers(view: View): Layer[] {
  return view.sampling?.is_blind ? view.layers.filter((each) => !FROM_MAP.includes(each.role)) : view.layers;
}

/** The state that a scene begins with. */
export function firstState(view: View): PageState {
  const layers = visibleLayers(view);
  // The manifest's first modality lies on top of the others.
  const bottomUp = [...layers].reverse().sort((a, b) => ORDER.indexOf(a.role) - ORDER.indexOf(b.role));
  const isAny = layers.some((each) => each.is_shown);
  const shown = bottomUp.map((layer) => ({
    id: layer.id,
    isShown: isAny ? layer.is_shown : layer === layers[0],
    opacity: 1,
    style: firstStyle(layer),
  }));
  return {
    scene: view.id,
    centre: [view.width / 2, view.height / 2],
    zoom: null,
    layers: shown,
    arrangement: 'one',
    swipe: { ...firstSwipe(layers), at: 0.5 },
    four: firstFour(layers),
    selected: null,
  };
}

function firstSwipe(layers: Layer[]): { left: string | null; right: string | null } {
  const image = layers.find((each) => each.role === 'modality');
  const map = layers.find((each) => each.role === 'class_map') ?? layers.find((each) => each !== image);
  return { left: image?.id ?? null, right: map?.id ?? null };
}

function firstFour(layers: Layer[]): (string | null)[] {
  const wanted: Layer['role'][] = ['class_map', 'confidence', 'truth', 'modality', 'entropy', 'difference'];
  const found = wanted.flatMap((role) => layers.filter((each) => each.role === role)).map((each) => each.id);
  const image = layers.find((each) => each.role === 'modality')?.id ?? null;
  const others = [...new Set([image, ...found])];
  return [0, 1, 2, 3].map((i) => others[i] ?? null);
}
