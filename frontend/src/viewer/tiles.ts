/** Tiles of a layer, painted from kept blocks: another style paints again and reads nothing. */
import ImageTile from 'ol/source/ImageTile';
import TileGrid from 'ol/tilegrid/TileGrid';
import type Projection from 'ol/proj/Projection';
import type { ClassEntry, Layer } from '../shared/contract';
import { painterOf, type Painter, type Values } from './paint';
import { Raster, type Level } from './raster';
import { bandsRead, type Style } from './style';

export const TILE = 256;

/** Resolutions (scene pixels per pixel of the page) of a layer's tiles, coarse to fine. */
export function resolutionsOf(layer: Layer): number[] {
  const finest = Math.min(...layer.pixels);
  const power = Math.log2(finest);
  // Pixels that are no power of two wide are cut finer, so that their edges lie well.
  const least = Number.isInteger(power) ? power : Math.floor(power) - 2;
  const extent = Math.max(layer.height * layer.pixels[0], layer.width * layer.pixels[1]);
  const most = Math.max(least, Math.ceil(Math.log2(extent / TILE)));
  return Array.from({ length: most - least + 1 }, (_, i) => 2 ** (most - i));
}

/** The coarsest level that is at least as fine as a resolution. */
export function levelFor(levels: Pick<Level, 'scale'>[], pixels: number, resolution: number): number {
  let found = 0;
  levels.forEach((level, i) => {
    if (level.scale[0] * pixels <= resolution * 1.001) found = i;
  });
  return found;
}

export class LayerTiles {
  readonly raster: Raster;
  readonly source: ImageTile;
  private painter: Painter;
  private bands: number[];
  private revision = 0;
  private readonly resolutions: number[];
  isSmooth = false;

  constructor(
    readonly layer: Layer,
    public style: Style,
    private readonly classes: ClassEntry[],
    base: string,
    projection: Projection,
    private readonly onerror: (error: Error) => void,
  ) {
    this.raster = new Raster(layer, base);
    this.painter = painterOf(layer, style, classes);
    this.bands = bandsRead(layer, style);
    this.resolutions = resolutionsOf(layer);
    const extent = [0, -layer.height * layer.pixels[0], layer.width * layer.pixels[1], 0];
    this.source = new ImageTile({
      projection,
      interpolate: false,
      transition: 0,
      wrapX: false,
      tileGrid: new TileGrid({ extent, origin: [0, 0], tileSize: TILE, resolutions: this.resolutions }),
      loader: (z, x, y) => this.tile(z, x, y),
    });
    // Values are averaged only where many lie under one pixel of the page, and classes never are.
    if (layer.kind === 'image' || layer.kind === 'number') this.source.getInterpolate = () => this.isSmooth;
  }

  /** Paint in another style. Tiles in the old one stay until theirs are ready. */
  restyle(style: Style): void {
    this.style = style;
    this.painter = painterOf(this.layer, style, this.classes);
    this.bands = bandsRead(this.layer, style);
    this.revision += 1;
    (this.source as unknown as { setKey(key: string): void }).setKey(`${this.layer.id}/${this.revision}`);
  }

  private async tile(z: number, x: number, y: number): Promise<HTMLCanvasElement> {
    try {
      return await this.paint(this.resolutions[z]!, x, y);
    } catch (error) {
      this.onerror(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }

  private async paint(resolution: number, x: number, y: number): Promise<HTMLCanvasElement> {
    const levels = await this.raster.levels();
    const at = levelFor(levels, this.layer.pixels[1], resolution);
    const level = levels[at]!;
    const { painter, bands } = this;
    const size: [number, number] = [level.scale[0] * this.layer.pixels[1], level.scale[1] * this.layer.pixels[0]];
    const cols = indices(x * TILE * resolution, resolution, size[0], level.width);
    const rows = indices(y * TILE * resolution, resolution, size[1], level.height);
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = TILE;
    const picture = new ImageData(TILE, TILE);
    const jobs: Promise<void>[] = [];
    for (const by of spanned(rows, level.blockHeight)) {
      for (const bx of spanned(cols, level.blockWidth)) {
        const paint = (values: Values[]): void =>
          paintBlock(picture.data, values, level, bx, by, cols, rows, painter);
        jobs.push(this.raster.block(at, bx, by, bands).then(paint));
      }
    }
    await Promise.all(jobs);
    canvas.getContext('2d')!.putImageData(picture, 0, 0);
    return canvas;
  }
}

/** Pixel of a level under each pixel of a tile, along one axis; -1 outside. */
export function indices(start: number, resolution: number, size: number, count: number): Int32Array {
  return Int32Array.from({ length: TILE }, (_, i) => {
    const index = Math.floor((start + (i + 0.5) * resolution) / size);
    return index >= 0 && index < count ? index : -1;
  });
}

function spanned(pixels: Int32Array, block: number): number[] {
  const inside = pixels.filter((each) => each >= 0);
  if (!inside.length) return [];
  const [first, last] = [Math.floor(inside[0]! / block), Math.floor(inside[inside.length - 1]! / block)];
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

function paintBlock(
  out: Uint8ClampedArray,
  values: Values[],
  level: Level,
  bx: number,
  by: number,
  cols: Int32Array,
  rows: Int32Array,
  painter: Painter,
): void {
  const [left, top] = [bx * level.blockWidth, by * level.blockHeight];
  const width = Math.min(level.blockWidth, level.width - left);
  const height = Math.min(level.blockHeight, level.height - top);
  for (let i = 0; i < TILE; i++) {
    const row = rows[i]! - top;
    if (rows[i]! < 0 || row < 0 || row >= height) continue;
    for (let j = 0; j < TILE; j++) {
      const col = cols[j]! - left;
      if (cols[j]! < 0 || col < 0 || col >= width) continue;
      painter(values, row * width + col, out, (i * TILE + j) * 4);
    }
  }
}
