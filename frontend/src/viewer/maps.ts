/** The maps of the page: one, one with a bar to swipe, or four side by side. */
import 'ol/ol.css';
import OlMap from 'ol/Map';
import OlView from 'ol/View';
import Projection from 'ol/proj/Projection';
import TileLayer from 'ol/layer/Tile';
import VectorLayer from 'ol/layer/Vector';
import VectorSource from 'ol/source/Vector';
import Feature from 'ol/Feature';
import Point from 'ol/geom/Point';
import Polygon from 'ol/geom/Polygon';
import { defaults as defaultInteractions } from 'ol/interaction/defaults';
import { getRenderPixel } from 'ol/render';
import RenderEvent from 'ol/render/Event';
import type BaseEvent from 'ol/events/Event';
import type MapBrowserEvent from 'ol/MapBrowserEvent';
import { Circle, Fill, Stroke, Style, RegularShape } from 'ol/style';
import type { View } from '../shared/contract';
import { h } from '../shared/html';
import type { Pair } from './ground';
import { LayerTiles } from './tiles';

/** A layer of a pane: where it is clipped and how opaque it is. */
export interface Stacked {
  id: string;
  opacity: number;
  side: 'left' | 'right' | null;
}

interface Pane {
  element: HTMLElement;
  map: OlMap;
  layers: Map<string, TileLayer>;
  sides: Map<string, 'left' | 'right'>;
}

const SELECTED = [
  new Style({ image: new Circle({ radius: 8, stroke: new Stroke({ color: '#000', width: 4 }) }) }),
  new Style({ image: new Circle({ radius: 8, stroke: new Stroke({ color: '#fff', width: 2 }) }) }),
];
const PLACE = [
  new Style({ stroke: new Stroke({ color: 'rgba(0,0,0,0.75)', width: 4 }) }),
  new Style({ stroke: new Stroke({ color: '#fff', width: 2, lineDash: [6, 4] }) }),
];
const CROSS = new Style({
  image: new RegularShape({
    points: 4, radius: 9, radius2: 0, stroke: new Stroke({ color: '#fff', width: 1.5 }), fill: new Fill({ color: '#000' }),
  }), // prettier-ignore
});

export class SceneMaps {
  readonly projection: Projection;
  readonly olView: OlView;
  readonly panes: Pane[] = [];
  readonly overlays: VectorLayer[] = [];
  private readonly marks = new VectorSource();
  private readonly pointer = new VectorSource();
  private readonly busy = new Set<number>();
  private swipeAt = 0.5;

  constructor(
    readonly view: View,
    private readonly tiles: (id: string) => LayerTiles,
    readonly stage: HTMLElement,
    private readonly on: {
      click: (at: Pair) => void;
      move: (at: Pair | null) => void;
      view: () => void;
      busy: (isBusy: boolean) => void;
    },
    finest: number,
  ) {
    const { width, height } = view;
    this.projection = new Projection({ code: 'scene', units: 'pixels', extent: [0, -height, width, 0] });
    this.olView = new OlView({
      projection: this.projection,
      center: [width / 2, -height / 2],
      resolution: Math.max(width, height) / 512,
      minResolution: finest / 48,
      maxResolution: Math.max(1, (Math.max(width, height) / 256) * 1.6),
      extent: [-width * 0.5, -height * 1.5, width * 1.5, height * 0.5],
      constrainOnlyCenter: true,
      smoothExtentConstraint: false,
      enableRotation: false,
      showFullExtent: true,
    });
    this.olView.on(['change:resolution', 'change:center'] as never, () => this.on.view());
  }

  /** Make as many panes as needed; the first one stays. */
  setPanes(count: number): void {
    while (this.panes.length > count) {
      const pane = this.panes.pop()!;
      this.setBusy(this.panes.length, false);
      pane.map.setTarget(undefined);
      pane.element.remove();
    }
    while (this.panes.length < count) this.panes.push(this.makePane(this.panes.length));
    this.stage.dataset['panes'] = String(count);
    for (const pane of this.panes) pane.map.updateSize();
  }

  private makePane(number: number): Pane {
    const element = h('div', { class: 'pane' });
    const canvas = h('div', {
      class: 'map',
      tabindex: '0',
      role: 'application',
      'aria-label': `Map ${number + 1}. Arrow keys move, plus and minus zoom, Enter reads the pixel in the middle.`,
      'aria-roledescription': 'map',
    });
    element.append(canvas);
    this.stage.append(element);
    const map = new OlMap({
      target: canvas,
      view: this.olView,
      controls: [],
      maxTilesLoading: 24,
      interactions: defaultInteractions({
        altShiftDragRotate: false,
        pinchRotate: false,
        doubleClickZoom: false,
        keyboard: false,
      }),
    });
    for (const source of [this.marks, this.pointer]) {
      map.addLayer(new VectorLayer({ source, zIndex: 1000, updateWhileInteracting: true }));
    }
    if (number === 0) for (const layer of this.overlays) map.addLayer(layer);
    map.on('click', (event) => this.on.click(this.place(event)));
    map.on('pointermove', (event) => {
      if (event.dragging) return;
      const at = this.place(event);
      this.showPointer(at, number);
      this.on.move(at);
    });
    canvas.addEventListener('pointerleave', () => {
      this.pointer.clear();
      this.on.move(null);
    });
    map.on('loadstart', () => this.setBusy(number, true));
    map.on('rendercomplete', () => this.setBusy(number, false));
    map.on('precompose', () => this.smooth());
    return { element, map, layers: new Map(), sides: new Map() };
  }

  private setBusy(number: number, isBusy: boolean): void {
    if (isBusy) this.busy.add(number);
    else this.busy.delete(number);
    this.on.busy(this.busy.size > 0);
  }

  private smooth(): void {
    const resolution = this.olView.getResolution() ?? 1;
    for (const pane of this.panes) {
      for (const id of pane.layers.keys()) {
        const tiles = this.tiles(id);
        tiles.isSmooth = resolution > Math.min(...tiles.layer.pixels) * 1.01;
      }
    }
  }

  private place(event: MapBrowserEvent): Pair {
    return [event.coordinate[0]!, -event.coordinate[1]!];
  }

  private showPointer([col, row]: Pair, from: number): void {
    this.pointer.clear(true);
    if (this.panes.length < 2) return;
    const feature = new Feature(new Point([col, -row]));
    feature.setStyle(CROSS);
    feature.set('from', from);
    this.pointer.addFeature(feature);
  }

  /** Show layers in a pane, the first one lowest. */
  stack(number: number, layers: Stacked[]): void {
    const pane = this.panes[number];
    if (!pane) return;
    const wanted = new Set(layers.map((each) => each.id));
    for (const [id, layer] of pane.layers) {
      if (wanted.has(id)) continue;
      pane.map.removeLayer(layer);
      pane.layers.delete(id);
      pane.sides.delete(id);
    }
    layers.forEach(({ id, opacity, side }, i) => {
      const layer = pane.layers.get(id) ?? this.addLayer(pane, id);
      layer.setZIndex(i + 1);
      layer.setOpacity(opacity);
      if (side) pane.sides.set(id, side);
      else pane.sides.delete(id);
    });
    pane.map.render();
  }

  private addLayer(pane: Pane, id: string): TileLayer {
    const layer = new TileLayer({ source: this.tiles(id).source as never, preload: 0, cacheSize: 256 });
    layer.on('prerender', (event) => this.clip(pane, id, event));
    layer.on('postrender', (event: BaseEvent) => {
      ((event as RenderEvent).context as CanvasRenderingContext2D).restore();
    });
    pane.layers.set(id, layer);
    pane.map.addLayer(layer);
    return layer;
  }

  private clip(pane: Pane, id: string, event: RenderEvent): void {
    const context = event.context as CanvasRenderingContext2D;
    context.save();
    const side = pane.sides.get(id);
    const size = pane.map.getSize();
    if (!side || !size) return;
    const [width, height] = size as [number, number];
    const x = this.swipeAt * width;
    const [left, right] = side === 'left' ? [0, x] : [x, width];
    const corners = [[left, 0], [right, 0], [right, height], [left, height]] as Pair[];
    context.beginPath();
    corners.forEach((corner, i) => {
      const [px, py] = getRenderPixel(event, corner) as Pair;
      if (i === 0) context.moveTo(px, py);
      else context.lineTo(px, py);
    });
    context.closePath();
    context.clip();
  }

  setSwipe(at: number): void {
    this.swipeAt = at;
    for (const pane of this.panes) pane.map.render();
  }

  /** Add vectors of a tool to the first map. */
  addOverlay(layer: VectorLayer): void {
    this.overlays.push(layer);
    this.panes[0]?.map.addLayer(layer);
  }

  mark(selected: Pair | null, place: { row: number; col: number; height: number; width: number } | null): void {
    this.marks.clear(true);
    if (place) {
      const [left, top, right, bottom] = [place.col, -place.row, place.col + place.width, -place.row - place.height];
      const ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]];
      const feature = new Feature(new Polygon([ring]));
      feature.setStyle(PLACE);
      this.marks.addFeature(feature);
    }
    if (selected) {
      const feature = new Feature(new Point([selected[1] + 0.5, -selected[0] - 0.5]));
      feature.setStyle(SELECTED);
      this.marks.addFeature(feature);
    }
    this.marks.changed();
  }

  get centre(): Pair {
    const [x, y] = (this.olView.getCenter() ?? [0, 0]) as Pair;
    return [x, -y];
  }

  set centre([col, row]: Pair) {
    this.olView.setCenter([col, -row]);
  }

  get resolution(): number {
    return this.olView.getResolution() ?? 1;
  }

  /** Show a rectangle of scene pixels, or the whole scene. */
  fit(box: { row: number; col: number; height: number; width: number } | null, margin = 24): void {
    const { width, height } = this.view;
    const { row, col, height: h0, width: w0 } = box ?? { row: 0, col: 0, height, width };
    const size = this.panes[0]?.map.getSize();
    this.olView.fit([col, -row - h0, col + w0, -row], {
      padding: [margin, margin, margin, margin],
      ...(size ? { size } : {}),
    });
  }

  pan(dx: number, dy: number): void {
    const [x, y] = this.centre;
    this.centre = [x + dx * this.resolution, y + dy * this.resolution];
  }

  /** Let keys go to the map: a button that was just pressed would take Enter for itself. */
  focus(): void {
    this.panes[0]?.map.getTargetElement()?.focus({ preventScroll: true });
  }

  zoom(factor: number): void {
    this.olView.adjustResolution(1 / factor);
  }

  dispose(): void {
    this.setPanes(0);
  }
}
