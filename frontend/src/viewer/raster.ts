/** A GeoTIFF whose blocks are read once, kept as raw values and given to whoever paints them. */
import { addDecoder, BaseDecoder, fromArrayBuffer, fromUrl, type GeoTIFF, type GeoTIFFImage } from 'geotiff';
import type { Layer } from '../shared/contract';
import { isFromDisk, readEmbedded, ReadError } from './data';
import { rasterPixel } from './ground';
import { ByteLru } from './lru';
import type { Values } from './paint';

/** A rectangle of a level as values by band. */
export interface Block {
  width: number;
  height: number;
  bands: Values[];
}

/** A level of the pyramid; `scale`: pixels of the full raster per pixel, (x, y). */
export interface Level {
  image: GeoTIFFImage;
  width: number;
  height: number;
  blockWidth: number;
  blockHeight: number;
  scale: [number, number];
}

const MOST_BYTES = 192 * 2 ** 20;
const kept = new ByteLru<Block>(MOST_BYTES);

/** The browser's own inflater works beside the page's thread. */
class NativeDeflate extends BaseDecoder {
  override async decodeBlock(buffer: ArrayBufferLike): Promise<ArrayBufferLike> {
    const stream = new Blob([buffer as ArrayBuffer]).stream();
    return new Response(stream.pipeThrough(new DecompressionStream('deflate'))).arrayBuffer();
  }
}
if (typeof DecompressionStream === 'function') {
  addDecoder([8, 32946], () => Promise.resolve(NativeDeflate));
}

/** Few things at a time, the newest first: what is in view now was asked for last. */
export class Queue {
  private readonly waiting: (() => void)[] = [];
  private running = 0;

  constructor(private readonly most: number) {}

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.running >= this.most) await new Promise<void>((go) => this.waiting.push(go));
    this.running += 1;
    try {
      return await work();
    } finally {
      this.running -= 1;
      this.waiting.pop()?.();
    }
  }
}
const queue = new Queue(6);

export class Raster {
  private opened: Promise<Level[]> | null = null;
  private readonly reading = new Map<string, Promise<Block>>();
  private isPlanar = false;

  constructor(
    readonly layer: Layer,
    private readonly base: string,
  ) {}

  /** Levels from the finest to the coarsest. */
  levels(): Promise<Level[]> {
    this.opened ??= this.open().catch((error: unknown) => {
      this.opened = null; // The next look may find it.
      throw error;
    });
    return this.opened;
  }

  private async open(): Promise<Level[]> {
    const tiff = await this.file();
    const images: GeoTIFFImage[] = [];
    const count = await tiff.getImageCount();
    for (let i = 0; i < count; i++) {
      const image = await tiff.getImage(i);
      const kind = Number(image.fileDirectory.getValue('NewSubfileType') ?? 0);
      if ((kind & 4) === 0) images.push(image); // 4: a mask.
    }
    const [full] = images;
    if (!full) throw new ReadError(`${this.layer.title}: the file holds no raster.`);
    if (full.getWidth() !== this.layer.width || full.getHeight() !== this.layer.height) {
      throw new ReadError(`${this.layer.title}: the file has changed since the page was made.`);
    }
    this.isPlanar = Number(full.fileDirectory.getValue('PlanarConfiguration') ?? 1) === 2;
    images.sort((a, b) => b.getWidth() - a.getWidth());
    return images.map((image) => levelOf(image, full));
  }

  private async file(): Promise<GeoTIFF> {
    const { embedded, href, title } = this.layer;
    // In pieces that are kept: the library would otherwise ask for every number of a directory.
    const pieces = { blockSize: 65536, cacheSize: 128 } as object;
    if (!isFromDisk) return fromUrl(new URL(href, this.base).href, pieces);
    if (embedded === null) {
      throw new ReadError(
        `${title} is too large for a page opened from disk: run \`python -m http.server\` in its folder.`,
      );
    }
    return fromArrayBuffer(await readEmbedded(new URL(embedded, this.base).href));
  }

  /** A block of a level with some bands; those of files by pixel come all together. */
  async block(level: number, x: number, y: number, bands: number[]): Promise<Values[]> {
    const levels = await this.levels();
    if (!this.isPlanar) {
      const block = await this.kept(levels, level, x, y, null);
      return bands.map((band) => block.bands[band]!);
    }
    const blocks = await Promise.all(bands.map((band) => this.kept(levels, level, x, y, band)));
    return blocks.map((block) => block.bands[0]!);
  }

  private kept(levels: Level[], level: number, x: number, y: number, band: number | null): Promise<Block> {
    const key = `${this.base}|${this.layer.id}|${level}|${x}|${y}|${band ?? ''}`;
    const found = kept.get(key);
    if (found) return Promise.resolve(found);
    let promise = this.reading.get(key);
    if (!promise) {
      promise = queue
        .run(() => read(levels[level]!, x, y, band))
        .then((block) => {
          kept.set(key, block, block.bands.reduce((sum, each) => sum + each.byteLength, 0));
          return block;
        })
        .finally(() => this.reading.delete(key));
      this.reading.set(key, promise);
    }
    return promise;
  }

  /** Stored values at the middle of a scene pixel, at full resolution; null outside the raster. */
  async stored(row: number, col: number): Promise<number[] | null> {
    const at = rasterPixel(this.layer, row, col);
    if (!at) return null;
    const [full] = await this.levels();
    const [x, y] = [Math.floor(at[1] / full!.blockWidth), Math.floor(at[0] / full!.blockHeight)];
    const all = this.layer.bands.map((_, i) => i);
    const bands = await this.block(0, x, y, all);
    const width = Math.min(full!.blockWidth, full!.width - x * full!.blockWidth);
    const index = (at[0] - y * full!.blockHeight) * width + (at[1] - x * full!.blockWidth);
    return bands.map((values) => values[index]!);
  }
}

function levelOf(image: GeoTIFFImage, full: GeoTIFFImage): Level {
  const [width, height] = [image.getWidth(), image.getHeight()];
  return {
    image,
    width,
    height,
    blockWidth: image.getTileWidth(),
    // Strips of few rows are read many at a time.
    blockHeight: image.isTiled ? image.getTileHeight() : manyOf(image.getTileHeight()),
    scale: [scaleOf(full.getWidth(), width), scaleOf(full.getHeight(), height)],
  };
}

/** A multiple of a number of rows that is about 256. */
function manyOf(rows: number): number {
  return rows * Math.max(1, Math.ceil(256 / rows));
}

/** Overviews by halves round up: of 5 pixels 3 are left, and each stands for 2. */
export function scaleOf(full: number, reduced: number): number {
  const power = 2 ** Math.round(Math.log2(full / reduced));
  return Math.ceil(full / power) === reduced ? power : full / reduced;
}

async function read(level: Level, x: number, y: number, band: number | null): Promise<Block> {
  const [left, top] = [x * level.blockWidth, y * level.blockHeight];
  const right = Math.min(left + level.blockWidth, level.width);
  const bottom = Math.min(top + level.blockHeight, level.height);
  const bands = await level.image.readRasters({
    window: [left, top, right, bottom],
    ...(band === null ? {} : { samples: [band] }),
  });
  return { width: right - left, height: bottom - top, bands: Array.from(bands) as Values[] };
}
