import { expect, test } from 'vitest';
import { linkedScene, readLink, writeLink } from '../src/viewer/permalink';
import { firstState, type PageState } from '../src/viewer/state';
import type { Mode } from '../src/viewer/style';
import { bandOf, layerOf, viewOf } from './made';

const bands = [bandOf(), bandOf(), bandOf(), bandOf()];
const view = viewOf(
  [
    layerOf({ bands, rgb: [2, 1, 0], indices: [{ id: 'nd-x*~;y', title: 'x', a: 0, b: 1 }] }),
    layerOf({ id: 'class_map', role: 'class_map', kind: 'classes' }),
    layerOf({ id: 'subset_sar+dsm, a;b-c*~=&#%', role: 'subset', kind: 'classes', is_shown: false }),
    layerOf({ id: 'confidence', role: 'confidence', kind: 'number', is_shown: false }),
  ],
  { id: 'test 1/ü&=' },
);

/** Numbers from a seed, so that a failure comes again. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 16807) % 2147483647) / 2147483647;
}

function randomState(seed: number): PageState {
  const random = randomOf(seed);
  const state = firstState(view);
  const pick = <T>(from: T[]): T => from[Math.floor(random() * from.length)]!;
  const ids = view.layers.map((each) => each.id);
  state.centre = [Number((random() * 200).toFixed(2)), Number((random() * 100).toFixed(2))];
  state.zoom = Number((random() * 8 - 4).toFixed(3));
  state.layers.sort(() => random() - 0.5);
  for (const each of state.layers) {
    each.isShown = random() < 0.5;
    each.opacity = Number(random().toFixed(2));
    if (random() < 0.5) each.style.off = [-1, 3];
    if (random() < 0.5) each.style.gamma = 1.3;
    if (random() < 0.5) each.style.ramp = 'magma';
  }
  const image = state.layers.find((each) => each.id === 'optical')!.style;
  image.mode = pick<Mode>(['rgb', 'single', 'index']);
  image.bands = [3, 0, 2];
  if (random() < 0.5) image.ranges = { 2: [-1.5e-7, 12345.5], 0: [-20, -10] };
  if (random() < 0.5) image.indexRange = [-0.25, 0.5];
  image.pca = [null, [-3, 4.5], null];
  state.arrangement = pick(['one', 'swipe', 'four']);
  if (state.arrangement === 'swipe') state.swipe = { left: pick(ids), right: pick(ids), at: 0.125 };
  if (state.arrangement === 'four') state.four = [pick(ids), null, pick(ids), null];
  if (random() < 0.5) state.selected = [Math.floor(random() * 100), Math.floor(random() * 200)];
  return state;
}

test('a link brings back what was shown, whatever it was', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const state = randomState(seed);
    const link = writeLink(state, firstState(view));
    expect(link).toMatch(/^[\w=&%.,;*~!+-]+$/);
    expect(readLink(`#${link}`, view)).toEqual(state);
    expect(linkedScene(`#${link}`)).toBe(view.id);
  }
});

test('what began as it is takes no room', () => {
  const first = firstState(view);
  expect(writeLink(first, firstState(view))).not.toMatch(/style|view|zoom|pixel/);
});

test('a link of another scene, or none, or nonsense, shows the scene as it begins', () => {
  const first = firstState(view);
  expect(readLink('', view)).toEqual(first);
  expect(readLink('#scene=other&zoom=3', view)).toEqual(first);
  const scene = writeLink(first, first).split('&')[0];
  const read = readLink(`#${scene}&at=a,b&zoom=NaN&layers=gone,class_map*7&pixel=-1,5&style=gone*m~rgb;class_map*m~rgb&view=x&four=%`, view);
  expect(read.centre).toEqual(first.centre);
  expect(read.zoom).toBeNull();
  expect(read.selected).toBeNull();
  expect(read.arrangement).toBe('one');
  const shown = read.layers.filter((each) => each.isShown);
  expect(shown.map((each) => [each.id, each.opacity, each.style.mode])).toEqual([['class_map', 1, 'classes']]);
});

test('a blind sample shows nothing that comes of the map', () => {
  const sampling = { classes: ['water'], href: 's', file: 's.gpkg', ids: [1], is_blind: true };
  const blind = { ...view, sampling };
  expect(firstState(blind).layers.map((each) => each.id)).toEqual(['optical']);
  const link = writeLink(firstState(view), firstState(view));
  expect(readLink(link, blind).layers.map((each) => each.id)).toEqual(['optical']);
});
