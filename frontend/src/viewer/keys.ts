/** Every key of the page, what it does, and the table that the help shows. */
import { toggleTheme } from '../shared/theme';
import type { App } from './app';

export interface Key {
  group: 'Map' | 'Layers' | 'Read' | 'Page' | 'Labels' | 'Sample';
  /** As on the keyboard. */
  shown: string[];
  text: string;
  /** Values of `KeyboardEvent.key`; null: only told of, handled elsewhere. */
  keys: string[] | null;
  /** False where the key has nothing to do, so that another one of the same name is tried. */
  go?: (app: App, event: KeyboardEvent) => boolean | void;
}

const STEP = 96;
const isLabelling = (app: App): boolean => app.labels !== null && app.panel === 'label';
const isSampling = (app: App): boolean => app.sample !== null && app.panel === 'sample';

export function changeTheme(app: App): void {
  toggleTheme();
  app.later();
}

export function toggleHelp(app: App): void {
  const dialog = document.querySelector<HTMLDialogElement>('dialog.help');
  app.isHelpShown = !dialog?.open;
  if (dialog?.open) dialog.close();
  else dialog?.showModal();
}

function pan(dx: number, dy: number) {
  return (app: App, event: KeyboardEvent): void => {
    const step = event.shiftKey ? STEP * 4 : STEP;
    app.maps?.pan(dx * step, dy * step);
  };
}

export const KEYS: Key[] = [
  { group: 'Map', shown: ['←', '→', '↑', '↓'], text: 'Move (with Shift further)', keys: null },
  { group: 'Map', shown: [], text: '', keys: ['ArrowLeft'], go: pan(-1, 0) },
  { group: 'Map', shown: [], text: '', keys: ['ArrowRight'], go: pan(1, 0) },
  { group: 'Map', shown: [], text: '', keys: ['ArrowUp'], go: pan(0, -1) },
  { group: 'Map', shown: [], text: '', keys: ['ArrowDown'], go: pan(0, 1) },
  { group: 'Map', shown: ['+'], text: 'Closer', keys: ['+', '='], go: (app) => app.maps?.zoom(1.5) },
  { group: 'Map', shown: ['-'], text: 'Further away', keys: ['-', '_'], go: (app) => app.maps?.zoom(1 / 1.5) },
  { group: 'Map', shown: ['0'], text: 'Whole scene', keys: ['0'], go: (app) => !isDigitTaken(app) && (app.maps?.fit(null), true) },
  { group: 'Map', shown: ['o'], text: 'One map', keys: ['o'], go: (app) => app.setArrangement('one') },
  { group: 'Map', shown: ['s'], text: 'Swipe between two layers; then arrows on the bar', keys: ['s'], go: startSwipe },
  { group: 'Map', shown: ['f'], text: 'Four maps', keys: ['f'], go: (app) => app.setArrangement('four') },
  { group: 'Layers', shown: ['l'], text: 'To the list of layers', keys: ['l'], go: (app) => focusPanel(app, 'layers') },
  { group: 'Layers', shown: ['h'], text: 'Hide and show the top layer', keys: ['h'], go: toggleTop },
  { group: 'Layers', shown: [',', '.'], text: 'Top layer more or less see-through', keys: [',', '.'], go: fadeTop },
  { group: 'Read', shown: ['Enter'], text: 'Read the pixel in the middle; a corner or a dab while drawing', keys: ['Enter'], go: pressEnter },
  { group: 'Read', shown: ['w'], text: 'Why it has this class', keys: ['w'], go: (app) => void app.askWhy() },
  { group: 'Read', shown: ['n', 'p'], text: 'Next and previous place', keys: ['n', 'p'], go: (app, event) => app.stepPlace(event.key === 'n' ? 1 : -1) },
  { group: 'Read', shown: ['m'], text: 'Measure a distance', keys: ['m'], go: (app) => app.chooseTool('distance') },
  { group: 'Read', shown: ['a'], text: 'Measure an area', keys: ['a'], go: (app) => app.chooseTool('area') },
  { group: 'Read', shown: ['Space'], text: 'End what is drawn', keys: [' '], go: finish },
  { group: 'Read', shown: ['Backspace'], text: 'Take the last corner back', keys: ['Backspace'], go: removeLast },
  { group: 'Read', shown: ['Esc'], text: 'Leave the tool', keys: ['Escape'], go: leave },
  { group: 'Page', shown: ['c'], text: 'Copy a link to this look', keys: ['c'], go: (app) => void app.copyLink() },
  { group: 'Page', shown: ['t'], text: 'Light or dark', keys: ['t'], go: changeTheme },
  { group: 'Page', shown: ['?'], text: 'These keys', keys: ['?'], go: toggleHelp },
  { group: 'Labels', shown: ['1', '…', '9'], text: 'Class to paint with, or of the chosen polygon', keys: '123456789'.split(''), go: labelDigit },
  { group: 'Labels', shown: ['b'], text: 'Brush', keys: ['b'], go: (app) => app.labels !== null && (app.showPanel('label'), app.chooseTool('brush'), true) },
  { group: 'Labels', shown: ['e'], text: 'Eraser', keys: ['e'], go: (app) => app.labels !== null && (app.showPanel('label'), app.chooseTool('erase'), true) },
  { group: 'Labels', shown: ['g'], text: 'Polygon', keys: ['g'], go: (app) => app.labels !== null && (app.showPanel('label'), app.chooseTool('polygon'), true) },
  { group: 'Labels', shown: ['v'], text: 'Choose and change polygons', keys: ['v'], go: (app) => app.labels !== null && (app.showPanel('label'), app.chooseTool('edit'), true) },
  { group: 'Labels', shown: ['[', ']'], text: 'Smaller and larger brush', keys: ['[', ']'], go: resizeBrush },
  { group: 'Labels', shown: ['Delete'], text: 'Delete the chosen polygon', keys: ['Delete'], go: (app) => app.deleteSelected() },
  { group: 'Labels', shown: ['Ctrl', 'z'], text: 'Undo; with Shift, redo', keys: null },
  { group: 'Sample', shown: ['1', '…', '9'], text: 'Class of the point; goes on to the next', keys: '123456789'.split(''), go: sampleDigit },
  { group: 'Sample', shown: ['0'], text: 'Take the class of the point away', keys: ['0'], go: (app) => isSampling(app) && (app.labelPoint(null), true) },
]; // prettier-ignore

function isDigitTaken(app: App): boolean {
  return isSampling(app);
}

function labelDigit(app: App, event: KeyboardEvent): boolean {
  if (!isLabelling(app)) return false;
  app.chooseClass(Number(event.key) - 1);
  return true;
}

function sampleDigit(app: App, event: KeyboardEvent): boolean {
  if (!isSampling(app)) return false;
  app.labelPoint(Number(event.key) - 1);
  return true;
}

function startSwipe(app: App): void {
  app.setArrangement('swipe');
  if (app.state.arrangement === 'swipe') document.querySelector<HTMLElement>('.swipe')?.focus();
}

export function focusPanel(app: App, panel: 'layers'): void {
  app.showPanel(panel);
  requestAnimationFrame(() => document.querySelector<HTMLElement>('.layers input, .layers button')?.focus());
}

function top(app: App) {
  return [...app.state.layers].reverse().find((each) => each.isShown);
}

let hidden: string | null = null;
function toggleTop(app: App): void {
  if (hidden && app.state.layers.some((each) => each.id === hidden && !each.isShown)) {
    app.setShown(hidden, { isShown: true });
    hidden = null;
    return;
  }
  const layer = top(app);
  if (!layer) return;
  hidden = layer.id;
  app.setShown(layer.id, { isShown: false });
}

function fadeTop(app: App, event: KeyboardEvent): void {
  const layer = top(app);
  if (!layer) return;
  const by = event.key === ',' ? -0.1 : 0.1;
  app.setShown(layer.id, { opacity: Math.min(1, Math.max(0, Math.round((layer.opacity + by) * 10) / 10)) });
}

function pressEnter(app: App): void {
  if (!app.maps || !app.tools) return;
  const [col, row] = app.maps.centre;
  if (app.tools.isLooking) void app.inspect(Math.floor(row), Math.floor(col));
  else app.tools.pressEnter();
}

function finish(app: App): boolean {
  if (app.tools?.isLooking !== false) return false;
  app.tools.finish();
  return true;
}

function removeLast(app: App): void {
  if (app.tools?.tool === 'edit') app.deleteSelected();
  else app.tools?.removeLast();
}

function leave(app: App): void {
  if (!app.tools) return;
  app.measured = '';
  if (!app.tools.cancel() && !app.tools.isLooking) app.tools.choose('look');
  app.later();
}

function resizeBrush(app: App, event: KeyboardEvent): boolean {
  if (!app.tools || !isLabelling(app)) return false;
  app.tools.setRadius(app.tools.radius * (event.key === '[' ? 1 / 1.25 : 1.25));
  return true;
}

function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return !['checkbox', 'radio', 'button', 'range'].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

/** Keys that a focused control needs for itself. */
function belongsToControl(event: KeyboardEvent): boolean {
  const { target, key } = event;
  if (!(target instanceof HTMLElement) || target.classList.contains('map') || target === document.body) return false;
  if ([' ', 'Enter'].includes(key)) return target.matches('button, input, summary, a, [role=slider]');
  return key.startsWith('Arrow') && target.matches('input, [role=slider], [role=radio]');
}

/** Do what a key means; controls that take text or the key itself come first. */
export function handleKey(app: App, event: KeyboardEvent): void {
  if (document.querySelector('dialog[open]') && event.key !== '?') return;
  if (isTyping(event.target) || belongsToControl(event) || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() === 'z' && app.labels) {
      event.preventDefault();
      if (event.shiftKey) app.labels.redo();
      else app.labels.undo();
    } else if (event.key.toLowerCase() === 'y' && app.labels) {
      event.preventDefault();
      app.labels.redo();
    }
    return;
  }
  if (!app.view) {
    if (event.key === '?') toggleHelp(app);
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  for (const each of KEYS) {
    if (!each.keys?.includes(key) || !each.go) continue;
    if (each.go(app, event) === false) continue;
    event.preventDefault();
    return;
  }
}
