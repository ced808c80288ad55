/** What the pointer does on the first map: read, measure, or draw polygons of classes. */
import Feature from 'ol/Feature';
import type { FeatureLike } from 'ol/Feature';
import LineString from 'ol/geom/LineString';
import OlPolygon from 'ol/geom/Polygon';
import type Geometry from 'ol/geom/Geometry';
import Collection from 'ol/Collection';
import Draw from 'ol/interaction/Draw';
import Modify from 'ol/interaction/Modify';
import PointerInteraction from 'ol/interaction/Pointer';
import type MapBrowserEvent from 'ol/MapBrowserEvent';
import VectorLayer from 'ol/layer/Vector';
import VectorSource from 'ol/source/Vector';
import { Circle, Fill, Stroke, Style, Text } from 'ol/style';
import type { ClassEntry, Ground } from '../shared/contract';
import { strokeBitmap, type Bitmap } from './bitmap';
import type { Pair } from './ground';
import type { Painted } from './labels';
import type { SceneMaps } from './maps';
import { areaText, lengthText, lineLength, ringArea } from './measure';

export type Tool = 'look' | 'distance' | 'area' | 'polygon' | 'brush' | 'erase' | 'edit';

const toScene = ([x, y]: number[]): Pair => [x!, -y!];
const toMap = ([col, row]: Pair): number[] => [col, -row];

export class Tools {
  tool: Tool = 'look';
  radius = 8;
  selectedId: string | null = null;
  private readonly measured = new VectorSource();
  private readonly drawn = new VectorSource<Feature<OlPolygon>>();
  private readonly cursor = new VectorSource();
  private readonly brush: Brush;
  private draw: Draw | null = null;
  private modify: Modify | null = null;
  private readonly picked = new Collection<Feature<OlPolygon>>();

  constructor(
    private readonly maps: SceneMaps,
    private readonly ground: Ground,
    private readonly classes: ClassEntry[],
    private readonly on: {
      measured: (text: string) => void;
      polygon: (ring: Pair[]) => void;
      stroke: (pixels: Bitmap) => void;
      modified: (id: string, rings: Pair[][]) => void;
      changed: () => void;
    },
  ) {
    const above = { zIndex: 900, updateWhileInteracting: true, updateWhileAnimating: true };
    maps.addOverlay(new VectorLayer({ source: this.drawn as never, style: (f) => this.labelStyle(f), zIndex: 800 }));
    maps.addOverlay(new VectorLayer({ source: this.measured, style: (f) => this.measureStyle(f), ...above }));
    maps.addOverlay(new VectorLayer({ source: this.cursor, style: (f) => this.brushStyle(f), ...above }));
    this.brush = new Brush(this);
  }

  /** Whether clicks on the map read pixels. */
  get isLooking(): boolean {
    return this.tool === 'look';
  }

  choose(tool: Tool): void {
    const map = this.maps.panes[0]!.map;
    if (this.draw) map.removeInteraction(this.draw);
    if (this.modify) map.removeInteraction(this.modify);
    map.removeInteraction(this.brush);
    this.draw = null;
    this.modify = null;
    this.cursor.clear();
    if (tool !== 'edit') this.pick(null);
    this.tool = tool;
    if (tool === 'distance' || tool === 'area' || tool === 'polygon') map.addInteraction(this.newDraw(tool));
    if (tool === 'brush' || tool === 'erase') map.addInteraction(this.brush);
    if (tool === 'edit') map.addInteraction(this.newModify());
    this.maps.stage.dataset['tool'] = tool;
    this.on.changed();
  }

  private newDraw(tool: 'distance' | 'area' | 'polygon'): Draw {
    const draw = new Draw({
      type: tool === 'distance' ? 'LineString' : 'Polygon',
      stopClick: true,
      style: (f) => this.measureStyle(f),
    });
    draw.on('drawstart', (event) => {
      if (tool === 'polygon') return;
      this.measured.clear();
      event.feature.set('tool', tool);
      event.feature.getGeometry()?.on('change', () => this.on.measured(this.measureText(event.feature)));
    });
    draw.on('drawend', (event) => {
      const geometry = event.feature.getGeometry();
      if (tool !== 'polygon') {
        this.measured.addFeature(event.feature);
        this.on.measured(this.measureText(event.feature));
      } else if (geometry instanceof OlPolygon) {
        this.on.polygon(geometry.getCoordinates()[0]!.map(toScene));
      }
    });
    this.draw = draw;
    return draw;
  }

  private newModify(): Modify {
    const modify = new Modify({ features: this.picked as never, pixelTolerance: 8 });
    modify.on('modifyend', (event) => {
      for (const feature of event.features.getArray()) {
        const geometry = feature.getGeometry() as unknown as OlPolygon;
        const rings = geometry.getCoordinates().map((ring) => ring.map(toScene));
        this.on.modified(String(feature.getId()), rings);
      }
    });
    this.modify = modify;
    return modify;
  }

  /** Take the polygon at a place for editing. */
  pickAt(at: Pair): void {
    const found = this.drawn.getFeaturesAtCoordinate(toMap(at));
    this.pick(found.length ? String(found[found.length - 1]!.getId()) : null);
  }

  pick(id: string | null): void {
    this.selectedId = id;
    this.picked.clear();
    const feature = id === null ? null : this.drawn.getFeatureById(id);
    if (feature) this.picked.push(feature as Feature<OlPolygon>);
    this.drawn.changed();
    this.on.changed();
  }

  /** Put a corner at the middle of the map, or a dab of the brush. */
  pressEnter(): void {
    const at = this.maps.centre;
    if (this.tool === 'brush' || this.tool === 'erase') this.finishStroke([at]);
    else if (this.tool === 'edit') this.pickAt(at);
    else this.draw?.appendCoordinates([toMap(at)]);
  }

  finish(): void {
    this.draw?.finishDrawing();
  }

  removeLast(): void {
    this.draw?.removeLastPoint();
  }

  /** Leave what is being drawn; true where there was something. */
  cancel(): boolean {
    const isDrawing = Boolean(this.draw?.getOverlay().getSource()?.getFeatures().length);
    this.draw?.abortDrawing();
    const isMeasured = this.measured.getFeatures().length > 0;
    this.measured.clear();
    const isPicked = this.selectedId !== null;
    if (isPicked) this.pick(null);
    return isDrawing || isMeasured || isPicked;
  }

  clearMeasures(): void {
    this.measured.clear();
  }

  setRadius(radius: number): void {
    this.radius = Math.min(256, Math.max(0.5, radius));
    this.cursor.changed();
    this.on.changed();
  }

  finishStroke(stroke: Pair[]): void {
    const { width, height } = this.maps.view;
    const pixels = strokeBitmap(stroke, this.radius, width, height);
    if (pixels.on.some((each) => each === 1)) this.on.stroke(pixels);
  }

  showStroke(stroke: Pair[]): void {
    this.cursor.clear(true);
    const feature = new Feature<Geometry>(new LineString([...stroke, stroke[stroke.length - 1]!].map(toMap)));
    this.cursor.addFeature(feature);
  }

  /** Show the polygons as they are kept. */
  showLabels(polygons: readonly Painted[]): void {
    this.drawn.clear(true);
    for (const { id, class: name, polygon } of polygons) {
      const feature = new Feature(new OlPolygon(polygon.map((ring) => ring.map(toMap))));
      feature.setId(id);
      feature.set('class', name);
      this.drawn.addFeature(feature);
    }
    this.drawn.changed();
    if (this.selectedId !== null) {
      const there = this.drawn.getFeatureById(this.selectedId);
      this.picked.clear();
      if (there) this.picked.push(there as Feature<OlPolygon>);
      else this.selectedId = null;
    }
  }

  private labelStyle(feature: FeatureLike): Style[] {
    const colour = this.classes.find((each) => each.name === feature.get('class'))?.colour ?? '#888888';
    const isPicked = feature.getId() === this.selectedId;
    return [
      new Style({ stroke: new Stroke({ color: isPicked ? '#fff' : 'rgba(0,0,0,0.7)', width: isPicked ? 5 : 4 }) }),
      new Style({ stroke: new Stroke({ color: colour, width: 2 }), fill: new Fill({ color: `${colour}66` }) }),
    ];
  }

  private measureText(feature: FeatureLike): string {
    const geometry = feature.getGeometry();
    if (geometry instanceof LineString) {
      return lengthText(lineLength(this.ground, geometry.getCoordinates().map(toScene)));
    }
    if (!(geometry instanceof OlPolygon)) return '';
    const ring = geometry.getCoordinates()[0]!.map(toScene);
    const open = ring.slice(0, -1);
    if (open.length < 3) return '';
    const around = lengthText(lineLength(this.ground, ring));
    return `${areaText(ringArea(this.ground, open))} · around ${around}`;
  }

  private measureStyle(feature: FeatureLike): Style[] {
    const text = this.tool === 'polygon' ? '' : this.measureText(feature);
    return [
      new Style({
        stroke: new Stroke({ color: '#000', width: 4 }),
        fill: new Fill({ color: 'rgba(255,255,255,0.15)' }),
      }),
      new Style({
        stroke: new Stroke({ color: '#ffd54a', width: 2 }),
        image: new Circle({ radius: 4, fill: new Fill({ color: '#ffd54a' }), stroke: new Stroke({ color: '#000', width: 1 }) }),
        text: new Text({
          text,
          font: '600 13px system-ui, sans-serif',
          fill: new Fill({ color: '#000' }),
          backgroundFill: new Fill({ color: '#ffd54a' }),
          padding: [3, 6, 2, 6],
          offsetY: -16,
          overflow: true,
        }),
      }),
    ];
  }

  private brushStyle(feature: FeatureLike): Style[] {
    const width = Math.max(2, (2 * this.radius) / this.maps.resolution);
    const isErasing = this.tool === 'erase';
    const colour = isErasing ? 'rgba(255,255,255,0.45)' : `${(feature.get('colour') as string) ?? this.brushColour}88`;
    return [new Style({ stroke: new Stroke({ color: colour, width, lineCap: 'round', lineJoin: 'round' }) })];
  }

  brushColour = '#888888';
}

/** Strokes with the pointer held down; with more than one finger the map moves instead. */
class Brush extends PointerInteraction {
  private stroke: Pair[] = [];

  constructor(private readonly tools: Tools) {
    super();
  }

  override handleDownEvent(event: MapBrowserEvent): boolean {
    const original = event.originalEvent as PointerEvent;
    if (original.button !== 0 || this.targetPointers.length > 1 || original.shiftKey) return false;
    this.stroke = [toScene(event.coordinate)];
    this.tools.showStroke(this.stroke);
    return true;
  }

  override handleDragEvent(event: MapBrowserEvent): void {
    this.stroke.push(toScene(event.coordinate));
    this.tools.showStroke(this.stroke);
  }

  override handleMoveEvent(event: MapBrowserEvent): void {
    this.tools.showStroke([toScene(event.coordinate)]);
  }

  override handleUpEvent(): boolean {
    this.tools.finishStroke(this.stroke);
    this.stroke = [];
    return false;
  }
}
