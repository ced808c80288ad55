/** The page of a view: its state, what is read for it, and what its parts do. */
import type { ClassEntry, Entry, Layer, Place, View, ViewIndex, Why } from '../shared/contract';
import { h } from '../shared/html';
import type { Bitmap } from './bitmap';
import { isFromDisk, readDocument, request } from './data';
import type { Pair } from './ground';
import { LabelStore, newId, paintOver } from './labels';
import { SceneMaps, type Stacked } from './maps';
import { linkedScene, readLink, writeLink } from './permalink';
import { SampleStore } from './sample';
import { firstState, visibleLayers, type Arrangement, type PageState, type Shown } from './state';
import type { Style } from './style';
import { LayerTiles } from './tiles';
import { SwipeBar } from './swipe';
import { Tools, type Tool } from './tools';

export type Panel = 'layers' | 'pixel' | 'places' | 'label' | 'sample';

/** A scene that is being made ready. */
export interface Making {
  state: string;
  done: number;
  total: number | null;
  error: string | null;
}

export class App {
  index!: ViewIndex;
  view: View | null = null;
  state!: PageState;
  first!: PageState;
  maps: SceneMaps | null = null;
  tools: Tools | null = null;
  labels: LabelStore | null = null;
  sample: SampleStore | null = null;
  making: Making | null = null;
  panel: Panel = 'pixel';
  sheet: Panel | null = null;
  errors = new Map<string, string>();
  fault = '';
  notice = '';
  pointer: Pair | null = null;
  measured = '';
  stored = new Map<string, number[] | null | Error>();
  why: Why | 'reading' | Error | null = null;
  isWhyAutomatic = false;
  list = 0;
  place = -1;
  labelClass = 0;
  open = new Set<string>();
  isHelpShown = false;
  base = document.baseURI;
  private tiles = new Map<string, LayerTiles>();
  private scheduled = false;
  private linkTimer: ReturnType<typeof setTimeout> | undefined;
  private noticeTimer: ReturnType<typeof setTimeout> | undefined;
  private opening = 0;
  private pending = 0;
  private isDrawing = false;
  readonly parts: Record<'bar' | 'layers' | 'stage' | 'details' | 'tabs' | 'readout' | 'notice' | 'help', HTMLElement>;
  private readonly swipeBar: SwipeBar;

  /** `show` draws the parts as the state is. */
  constructor(root: HTMLElement, private readonly show: (app: App) => void) {
    this.parts = {
      bar: h('header', { class: 'bar' }),
      layers: h('section', { class: 'panel layers', 'aria-label': 'Layers', id: 'layers' }),
      stage: h('section', { class: 'stage', 'aria-label': 'Map' }),
      details: h('section', { class: 'panel details', 'aria-label': 'Details', id: 'details' }),
      tabs: h('nav', { class: 'tabs', 'aria-label': 'Panels' }),
      readout: h('div', { class: 'readout' }),
      notice: h('div', { class: 'notices', role: 'status', 'aria-live': 'polite' }),
      help: h('div', {}),
    };
    const { bar, layers, stage, details, tabs, readout: below, notice, help } = this.parts;
    stage.append(below, notice);
    root.append(bar, h('main', {}, layers, stage, details), tabs, help);
    this.swipeBar = new SwipeBar(stage, (at) => {
      this.state.swipe.at = at;
      this.maps?.setSwipe(at);
      this.later();
    });
    // By the event's address: the page may have written its own in the meantime.
    window.addEventListener('hashchange', (event) => void this.followLink(new URL(event.newURL).hash));
    window.addEventListener('beforeunload', (event) => {
      if (this.labels?.isSaved === false || this.sample?.isSaved === false) event.preventDefault();
    });
    new ResizeObserver(() => this.maps?.panes.forEach((pane) => pane.map.updateSize())).observe(stage);
  }

  async start(): Promise<void> {
    try {
      this.index = await readDocument<ViewIndex>(new URL('index.json', document.baseURI).href);
    } catch (error) {
      this.fault = `The list of scenes cannot be read. ${(error as Error).message}`;
      this.draw();
      return;
    }
    document.title = this.index.title;
    const linked = linkedScene(location.hash);
    const entry = this.index.views.find((each) => each.id === linked) ?? this.index.views[0]!;
    await this.openScene(entry, location.hash);
  }

  /** Open a scene of the list; those that wait are made ready first. */
  async openScene(entry: Entry, link = ''): Promise<void> {
    const opening = ++this.opening;
    this.leaveScene();
    this.state = { ...(this.state ?? {}), scene: entry.id } as PageState;
    this.draw();
    try {
      if (entry.state === 'waiting') await this.make(entry, opening);
      if (opening !== this.opening) return;
      this.base = new URL(entry.href, document.baseURI).href;
      const view = await readDocument<View>(this.base);
      if (opening === this.opening) this.enter(view, link);
    } catch (error) {
      if (opening !== this.opening) return;
      this.making = null;
      this.fault = `Scene ${entry.title} cannot be shown. ${(error as Error).message}`;
      this.draw();
    }
  }

  private leaveScene(): void {
    this.maps?.dispose();
    this.maps = null;
    this.tools = null;
    this.view = null;
    this.labels = null;
    this.sample = null;
    this.tiles.clear();
    this.errors.clear();
    this.stored.clear();
    this.why = null;
    this.fault = '';
    this.measured = '';
    this.place = -1;
    this.list = 0;
    this.making = null;
  }

  private async make(entry: Entry, opening: number): Promise<void> {
    if (!entry.make) throw new Error('It has not been made and this page cannot make it.');
    const address = new URL(entry.make, document.baseURI).href;
    let { body } = await request(address, { method: 'POST' });
    for (;;) {
      this.making = body as Making;
      if (opening !== this.opening) return;
      if (this.making.error) throw new Error(this.making.error);
      if (this.making.state === 'ready' || this.making.state === 'done') break;
      this.draw();
      await new Promise((go) => setTimeout(go, 700));
      ({ body } = await request(address));
    }
    entry.state = 'ready';
    this.making = null;
  }

  private enter(view: View, link: string): void {
    this.view = view;
    this.first = firstState(view);
    this.state = readLink(link, view);
    const finest = Math.min(1, ...view.layers.flatMap((each) => each.pixels));
    this.maps = new SceneMaps(view, (id) => this.tilesOf(id), this.parts.stage, {
      click: (at) => this.clicked(at),
      move: (at) => {
        this.pointer = at;
        this.later();
      },
      view: () => this.viewChanged(),
      busy: (isBusy) => {
        this.isDrawing = isBusy;
        this.pend(0);
      },
    }, finest); // prettier-ignore
    this.arrange();
    this.applyPlace();
    this.startTools(view);
    this.panel = view.sampling ? 'sample' : 'pixel';
    const sample = view.places.findIndex((each) => each.id === 'sample');
    if (view.sampling && sample >= 0) this.list = sample;
    for (const shown of this.state.layers) {
      const layer = this.layer(shown.id);
      if (shown.isShown && layer.kind !== 'image') this.open.add(shown.id);
    }
    if (this.state.selected) void this.inspect(...this.state.selected, false);
    this.draw();
  }

  private startTools(view: View): void {
    const classes: ClassEntry[] = view.labelling?.classes ?? view.classes;
    this.tools = new Tools(this.maps!, view.ground, classes, {
      measured: (text) => {
        this.measured = text;
        this.later();
      },
      polygon: (ring) => this.addPolygon(ring),
      stroke: (pixels) => this.addStroke(pixels),
      modified: (id, rings) => this.modified(id, rings),
      changed: () => this.later(),
    });
    if (view.labelling && !isFromDisk) {
      this.labels = new LabelStore(view.labelling, new URL(view.labelling.href, this.base).href, () => {
        this.tools?.showLabels(this.labels?.history.polygons ?? []);
        this.later();
      });
      void this.labels.load();
      this.chooseClass(0);
    }
    if (view.sampling && !isFromDisk) {
      this.sample = new SampleStore(view.sampling, new URL(view.sampling.href, this.base).href, () => this.later());
      const { sample } = this;
      void sample.load().then(() => {
        const open = sample.nextOpen(-1);
        if (this.sample === sample && this.place < 0 && open !== null) this.goToPlace(this.list, open);
      });
    }
  }

  /** The tiles of a layer, made when they are first shown. */
  tilesOf(id: string): LayerTiles {
    let tiles = this.tiles.get(id);
    if (!tiles) {
      const layer = this.layer(id);
      const { style } = this.shown(id);
      tiles = new LayerTiles(layer, style, this.view!.classes, this.base, this.maps!.projection, (error) => {
        if (this.errors.get(id) === error.message) return;
        this.errors.set(id, error.message);
        this.later();
      }, (change) => this.pend(change)); // prettier-ignore
      this.tiles.set(id, tiles);
    }
    return tiles;
  }

  /** Show that tiles are read or drawn. */
  private pend(change: number): void {
    this.pending += change;
    this.parts.stage.toggleAttribute('data-busy', this.isDrawing || this.pending > 0);
  }

  get layers(): Layer[] {
    return this.view ? visibleLayers(this.view) : [];
  }

  layer(id: string): Layer {
    return this.view!.layers.find((each) => each.id === id)!;
  }

  shown(id: string): Shown {
    return this.state.layers.find((each) => each.id === id)!;
  }

  // ---- What is shown

  /** Put the layers of the state into the panes. */
  arrange(): void {
    const { arrangement, layers, swipe, four } = this.state;
    const maps = this.maps;
    if (!maps) return;
    maps.setPanes(arrangement === 'four' ? 4 : 1);
    const list: Stacked[] = layers
      .filter((each) => each.isShown)
      .map(({ id, opacity }) => ({ id, opacity, side: null }));
    if (arrangement === 'four') {
      four.forEach((id, i) => {
        maps.stack(i, id === null ? list : [{ id, opacity: 1, side: null }]);
      });
    } else if (arrangement === 'swipe') {
      const sides: Stacked[] = [];
      const { left, right } = swipe;
      if (left) sides.push({ id: left, opacity: 1, side: 'left' });
      if (right && right !== left) sides.push({ id: right, opacity: 1, side: 'right' });
      maps.stack(0, [...list.filter(({ id }) => id !== left && id !== right), ...sides]);
    } else {
      maps.stack(0, list);
    }
    this.swipeBar.show(arrangement === 'swipe', swipe.at);
    maps.setSwipe(swipe.at);
    this.later();
  }

  setArrangement(arrangement: Arrangement): void {
    this.state.arrangement = this.state.arrangement === arrangement ? 'one' : arrangement;
    this.arrange();
  }

  setShown(id: string, changes: Partial<Shown>): void {
    Object.assign(this.shown(id), changes);
    const layer = this.layer(id);
    if (changes.isShown && layer.kind !== 'image') this.open.add(id);
    if (changes.isShown) this.errors.delete(id);
    this.arrange();
  }

  setStyle(id: string, changes: Partial<Style>): void {
    const shown = this.shown(id);
    shown.style = { ...shown.style, ...changes };
    this.tiles.get(id)?.restyle(shown.style);
    this.later();
  }

  /** Move a layer up (positive) or down in the list. */
  moveLayer(id: string, by: number): void {
    const { layers } = this.state;
    const from = layers.findIndex((each) => each.id === id);
    const to = Math.min(layers.length - 1, Math.max(0, from + by));
    layers.splice(to, 0, ...layers.splice(from, 1));
    this.arrange();
  }

  private applyPlace(): void {
    const { centre, zoom } = this.state;
    if (zoom === null) this.maps!.fit(null);
    else {
      this.maps!.centre = centre;
      this.maps!.olView.setResolution(2 ** -zoom);
    }
  }

  private viewChanged(): void {
    if (!this.maps || !this.view) return;
    this.state.centre = this.maps.centre;
    this.state.zoom = -Math.log2(this.maps.resolution);
    this.later();
  }

  // ---- Reading a pixel

  private clicked(at: Pair): void {
    if (!this.tools || !this.view) return;
    if (this.tools.tool === 'edit') this.tools.pickAt(at);
    else if (this.tools.isLooking) void this.inspect(Math.floor(at[1]), Math.floor(at[0]));
  }

  /** Read the values of all layers at a scene pixel and show them. */
  async inspect(row: number, col: number, show = true): Promise<void> {
    const view = this.view;
    if (!view || row < 0 || col < 0 || row >= view.height || col >= view.width) return;
    this.state.selected = [row, col];
    this.stored = new Map();
    this.why = null;
    if (show && this.panel !== 'sample') this.showPanel('pixel');
    this.later();
    const { stored } = this;
    const reading = this.layers.map(async (layer) => {
      try {
        stored.set(layer.id, await this.tilesOf(layer.id).raster.stored(row, col));
      } catch (error) {
        stored.set(layer.id, error as Error);
      }
      if (stored === this.stored) this.later();
    });
    await Promise.all(reading);
    if (this.isWhyAutomatic && stored === this.stored) await this.askWhy();
  }

  async askWhy(): Promise<void> {
    const { selected } = this.state;
    if (!this.view?.why || !selected) return;
    this.why = 'reading';
    this.later();
    const address = new URL(this.view.why, this.base);
    address.searchParams.set('row', String(selected[0]));
    address.searchParams.set('col', String(selected[1]));
    let answer: Why | Error;
    try {
      answer = (await request(address.href)).body as Why;
    } catch (error) {
      answer = error as Error;
    }
    if (this.state.selected === selected) this.why = answer;
    this.later();
  }

  // ---- Places

  goToPlace(list: number, number: number): void {
    const places = this.view?.places[list]?.places ?? [];
    if (!places.length || !this.maps) return;
    this.list = list;
    this.place = (number + places.length) % places.length;
    const place = places[this.place]!;
    this.maps.fit(around(place), 64);
    this.later();
    document.querySelector(`[data-place="${list}/${this.place}"]`)?.scrollIntoView({ block: 'nearest' });
  }

  stepPlace(by: number): void {
    const places = this.view?.places ?? [];
    if (!places.length) {
      this.say('There is no list of places for this scene.');
      return;
    }
    if (!places[this.list]?.places.length) this.list = places.findIndex((each) => each.places.length);
    this.goToPlace(this.list, this.place < 0 ? (by > 0 ? 0 : -1) : this.place + by);
    const list = places[this.list]!;
    if (list.id !== 'sample') {
      if (this.panel !== 'label') this.showPanel('places');
      this.say(`${list.title}, ${this.place + 1} of ${list.places.length}: ${list.places[this.place]!.text}`);
    }
  }

  get currentPlace(): Place | null {
    return this.view?.places[this.list]?.places[this.place] ?? null;
  }

  // ---- Labels

  chooseClass(number: number): void {
    const classes = this.view?.labelling?.classes ?? [];
    if (number < 0 || number >= classes.length) return;
    this.labelClass = number;
    const { name, colour } = classes[number]!;
    if (this.tools) {
      this.tools.brushColour = colour;
      const id = this.tools.selectedId;
      if (id !== null && this.labels) {
        this.labels.change(this.labels.history.polygons.map((each) => (each.id === id ? { ...each, class: name } : each)));
      }
    }
    this.later();
  }

  private get className(): string {
    return this.view!.labelling!.classes[this.labelClass]!.name;
  }

  private addPolygon(ring: Pair[]): void {
    const { width, height } = this.view!;
    const inside = ring.map(([col, row]): Pair => [
      Math.min(width, Math.max(0, col)),
      Math.min(height, Math.max(0, row)),
    ]);
    const polygon = { id: newId(), class: this.className, polygon: [inside] };
    this.labels?.change([...this.labels.history.polygons, polygon]);
  }

  private addStroke(pixels: Bitmap): void {
    if (!this.labels) return;
    const name = this.tools!.tool === 'erase' ? null : this.className;
    this.labels.change(paintOver(this.labels.history.polygons, pixels, name));
  }

  private modified(id: string, rings: Pair[][]): void {
    this.labels?.change(
      this.labels.history.polygons.map((each) => (each.id === id ? { ...each, polygon: rings } : each)),
    );
  }

  deleteSelected(): void {
    const id = this.tools?.selectedId;
    if (id === null || id === undefined) return;
    this.labels?.change(this.labels.history.polygons.filter((each) => each.id !== id));
    this.tools?.pick(null);
  }

  chooseTool(tool: Tool): void {
    if (!this.tools) return;
    const isDrawing = tool !== 'look' && tool !== 'distance' && tool !== 'area';
    if (isDrawing && !this.labels?.isReady) {
      if (this.labels) this.say('The saved polygons have not been read yet. Choose the tool once they are.');
      return;
    }
    this.measured = '';
    this.tools.clearMeasures();
    this.tools.choose(this.tools.tool === tool ? 'look' : tool);
    if (!this.tools.isLooking) this.maps?.focus();
  }

  // ---- The sample

  labelPoint(number: number | null): void {
    const name = number === null ? null : this.view?.sampling?.classes[number];
    if (!this.sample || name === undefined || this.place < 0) return;
    this.sample.set(this.place, name);
    const next = name === null ? null : this.sample.nextOpen(this.place);
    if (next !== null && next !== this.place) this.goToPlace(this.list, next);
  }

  // ---- The frame

  showPanel(panel: Panel): void {
    if (panel !== 'layers') this.panel = panel;
    this.sheet = panel;
    this.later();
  }

  say(text: string): void {
    this.notice = text;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => {
      this.notice = '';
      this.later();
    }, 6000);
    this.later();
  }

  async copyLink(): Promise<void> {
    this.writeLink();
    try {
      await navigator.clipboard.writeText(location.href);
      this.say('The link to this look is copied.');
    } catch {
      this.say('The browser does not let the page copy; the link is in the address bar.');
    }
  }

  private async followLink(link: string): Promise<void> {
    const scene = linkedScene(link);
    const entry = this.index.views.find((each) => each.id === scene);
    if (!entry) return;
    if (entry.id !== this.view?.id) {
      await this.openScene(entry, link);
      return;
    }
    this.state = readLink(link, this.view);
    for (const [id, tiles] of this.tiles) tiles.restyle(this.shown(id)?.style ?? tiles.style);
    this.arrange();
    this.applyPlace();
    if (this.state.selected) void this.inspect(...this.state.selected, false);
  }

  private writeLink(): void {
    if (!this.view) return;
    try {
      history.replaceState(null, '', `#${writeLink(this.state, this.first)}`);
    } catch {
      // Some browsers refuse it for pages from disk, or too often.
    }
  }

  /** Show what changed, with the next frame. */
  later(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  draw(): void {
    this.show(this);
    if (this.view && this.maps) {
      this.maps.mark(this.state.selected, this.currentPlace);
      clearTimeout(this.linkTimer);
      this.linkTimer = setTimeout(() => this.writeLink(), 300);
    }
  }
}

/** Twice as much as a place, so that one sees where it lies; points get a wider look. */
function around({ row, col, height, width }: Place): Place & { height: number; width: number } {
  const [h2, w2] = [Math.max(height * 1.5, 48), Math.max(width * 1.5, 48)];
  return {
    row: row + height / 2 - h2 / 2,
    col: col + width / 2 - w2 / 2,
    height: h2,
    width: w2,
    value: 0,
    text: '',
    thumbnail: null,
  };
}
