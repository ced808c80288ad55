// Generated from the server's models by `make web-types`; not edited by hand.

export const FORMAT = 1;

export type Role = Layer["role"];
export type JobState = Job["state"];

/** States that a job does not leave by itself. */
export const ENDED: readonly JobState[] = ["cancelled", "failed", "done"];

/**
 * Degrees (WGS 84) at crossings of rows and columns, to be interpolated linearly.
 *
 * Args:
 *     rows: Ascending, from 0 to the height.
 *     cols: Ascending, from 0 to the width.
 *     lon: By row, then column. Continuous: beyond ±180 where the scene crosses the date line.
 *     lat: As `lon`.
 */
export interface LonLat {
  rows: number[];
  cols: number[];
  lon: number[][];
  lat: number[][];
}

/**
 * Where the scene grid lies.
 *
 * Args:
 *     crs: Name as people say it ("EPSG:32630", else that of the WKT); None: unknown.
 *     unit: Of coordinates: "metre", "degree" …; None without CRS.
 *     transform: a, b, c, d, e, f: x = a·col + b·row + c, y = d·col + e·row + f.
 *     pixel_metres: Width and height of a pixel on the ground, in the middle; None: unknown.
 *     north: Clockwise angle in radians from up (a row less) to north, in the middle.
 *     lonlat: None without CRS.
 */
export interface Ground {
  crs: string | null;
  unit: string | null;
  transform: [number, number, number, number, number, number];
  pixel_metres: [number, number] | null;
  north: number;
  lonlat: LonLat | null;
}

/**
 * A class: value in class layers, colour `#rrggbb`, pixels and hectares on the map.
 */
export interface ClassEntry {
  value: number;
  name: string;
  colour: string;
  pixels: number | null;
  area_ha: number | null;
}

/**
 * A band of a layer.
 *
 * Args:
 *     name: Of the band.
 *     unit: As the manifest says ("dn", "dB", "m"); None: unknown.
 *     wavelength_um: None: none.
 *     factor: value = stored · factor + summand.
 *     summand: See `factor`.
 *     least: Smallest value, physical; None: no data at all.
 *     most: Largest value.
 *     low: Percentile 2, where the stretch begins.
 *     high: Percentile 98.
 */
export interface Band {
  name: string;
  unit: string | null;
  wavelength_um: number | null;
  factor: number;
  summand: number;
  least: number | null;
  most: number | null;
  low: number | null;
  high: number | null;
}

/**
 * A normalised difference (a - b) / (a + b) of two bands, such as NDVI.
 */
export interface Index {
  id: string;
  title: string;
  a: number;
  b: number;
}

/**
 * Three principal components of many bands.
 *
 * Args:
 *     mean: Per band.
 *     axes: Three times a weight per band.
 *     low: Percentile 2 of each component.
 *     high: Percentile 98.
 */
export interface Components {
  mean: number[];
  axes: [number[], number[], number[]];
  low: [number, number, number];
  high: [number, number, number];
}

/**
 * A raster of the scene.
 *
 * Args:
 *     id: Unique in the view; part of permalinks, and so the same each time: "optical",
 *         "class_map", "subset_sar+dsm".
 *     title: As people read it.
 *     role: What it is of.
 *     kind: image: bands are stretched; classes: values of `classes`; number: one band on a
 *         colour ramp; names: whole numbers with `names`.
 *     href: A cloud-optimised GeoTIFF, tiled, with overviews by halves.
 *     embedded: The same file as a script for pages opened from disk; None: not written.
 *     height: Rows of the raster.
 *     width: Columns.
 *     pixels: Scene pixels (rows, columns) per pixel of the raster: (2, 2) is half as fine.
 *     bands: In the file's order.
 *     nodata: Stored value without data, in every band. NaN stands as the text "nan".
 *     rgb: Three bands (numbers from 0) to begin with; one: grey.
 *     indices: That its bands allow.
 *     components: Of layers with more than three bands.
 *     names: Value → text and colour, for `names`.
 *     ramp: Colour ramp of `number`: viridis, magma, gray, blues.
 *     is_shown: Whether the page begins with it.
 */
export interface Layer {
  id: string;
  title: string;
  role: "modality" | "class_map" | "truth" | "difference" | "confidence" | "entropy" | "probability" | "attribution" | "subset" | "other";
  kind: "image" | "classes" | "number" | "names";
  href: string;
  embedded: string | null;
  height: number;
  width: number;
  pixels: [number, number];
  bands: Band[];
  nodata: number | "nan" | null;
  rgb: number[];
  indices: Index[];
  components: Components | null;
  names: ClassEntry[];
  ramp: "viridis" | "magma" | "gray" | "blues";
  is_shown: boolean;
}

/**
 * A rectangle of scene pixels worth a look.
 *
 * Args:
 *     value: By which it was chosen, higher first.
 *     text: Says why, in a few words with figures.
 *     thumbnail: Address of a PNG; None: none.
 */
export interface Place {
  row: number;
  col: number;
  height: number;
  width: number;
  value: number;
  text: string;
  thumbnail: string | null;
}

/**
 * A list of places: most uncertain, most wrong, decided by one modality; points of a sample.
 */
export interface Places {
  id: "uncertain" | "wrong" | "modality" | "sample";
  title: string;
  places: Place[];
}

/**
 * What can be painted; only pages of `terrafuse view` have it.
 *
 * Args:
 *     classes: That polygons may have; `value` is the raw code as text or number in `code`.
 *     href: GET and PUT of a GeoJSON FeatureCollection in scene pixels ([col, row]); properties
 *         `class` (name), `id` (text, made by the page).
 *     file: Where they are kept, as people read it.
 *     split: Of the scene; painted polygons of others than the training's are not learnt from.
 *     is_used: Whether training takes them.
 */
export interface Labelling {
  classes: ClassEntry[];
  href: string;
  file: string;
  split: string | null;
  is_used: boolean;
}

/**
 * A reference sample to be labelled; its points are the places of the list "sample".
 *
 * Args:
 *     classes: Names that a label may have.
 *     href: GET {"labels": {id: name or null}} and PUT of some of them.
 *     file: Of the sample.
 *     ids: Of the points, in the order of the places.
 *     is_blind: Class map, confidence and what is made of them are hidden while labelling.
 */
export interface Sampling {
  classes: string[];
  href: string;
  file: string;
  ids: number[];
  is_blind: boolean;
}

/**
 * One scene: `view.json`.
 *
 * Args:
 *     why: Address that explains a pixel (`?row=&col=`), answers `Why`; None: nothing can.
 *     pixel: Address of values as rasterio reads them (`?row=&col=`), for the tests; None: none.
 */
export interface View {
  format: 1;
  id: string;
  title: string;
  height: number;
  width: number;
  ground: Ground;
  classes: ClassEntry[];
  layers: Layer[];
  places: Places[];
  why: string | null;
  pixel: string | null;
  labelling: Labelling | null;
  sampling: Sampling | null;
  notes: string[];
}

/**
 * Of one modality: probabilities of the classes without it, and what it costs the class.
 */
export interface Influence {
  modality: string;
  probabilities: number[];
  lost: number;
}

/**
 * Why a pixel has its class: the model once more on the window around it.
 *
 * Args:
 *     probabilities: In the order of the view's classes.
 *     influences: One per modality that has data there.
 *     text: A sentence.
 */
export interface Why {
  row: number;
  col: number;
  mapped: string | null;
  probabilities: number[];
  influences: Influence[];
  text: string;
}

/**
 * A scene in the list.
 *
 * Args:
 *     state: ready: `href` can be read; waiting: POST to `make` begins to prepare it.
 *     make: Answers {"state", "done", "total", "error"}; GET of it tells how far it is.
 */
export interface Entry {
  id: string;
  title: string;
  split: string | null;
  href: string;
  state: "ready" | "waiting";
  make: string | null;
}

/**
 * All scenes of a page: `index.json`.
 */
export interface ViewIndex {
  format: 1;
  title: string;
  software: string;
  is_static: boolean;
  views: Entry[];
}

/**
 * A map to be made.
 *
 * Args:
 *     model: Name of a served model; may be left out where there is one.
 *     rasters: Modality → rasters: paths under the allowed roots, `upload:ID`, or http(s)
 *         addresses where those are allowed.
 *     item: Address of a STAC item instead, where addresses are allowed.
 *     products: As `predict --products`.
 *     outputs: What is made of the map beside the COGs.
 *     tta: Views, as `predict --tta`.
 *     crop_size: Of windows; default: the model's.
 *     overlap: Of windows.
 *     priority: Higher first, -10 to 10; positive ones need a token that may.
 *     title: Free text.
 *     convert: Modality → how its values become those of the training, as `predict --convert`.
 *     trust_values: Map values of another scale as they are.
 */
export interface JobRequest {
  model?: string | null;
  rasters?: Record<string, string | string[]>;
  item?: string | null;
  products?: string[];
  outputs?: ("polygons" | "areas" | "preview")[];
  tta?: string[];
  crop_size?: number | null;
  overlap?: number | null;
  priority?: number;
  title?: string;
  convert?: Record<string, string>;
  trust_values?: boolean;
}

/**
 * A file of a finished job, relative to the job's `results`.
 */
export interface ResultFile {
  name: string;
  bytes: number;
  media_type: string;
}

/**
 * A job as it stands.
 *
 * Args:
 *     user: Name of the token that asked for it; "local" without tokens.
 *     done: Work units that are kept.
 *     total: Work units; None: not known yet.
 *     attempts: How often it was begun.
 *     error: What went wrong, one message.
 *     results: Files, once it is done.
 *     view: Address of the page that shows the map, once it is done.
 *     tilejson: Address for web maps, once it is done, of maps with CRS.
 */
export interface Job {
  id: string;
  model: string;
  title: string;
  user: string;
  state: "queued" | "running" | "cancelling" | "cancelled" | "failed" | "done";
  priority: number;
  created: string;
  started: string | null;
  ended: string | null;
  done: number;
  total: number | null;
  attempts: number;
  worker: string | null;
  error: string | null;
  request: JobRequest;
  results: ResultFile[];
  view: string | null;
  tilejson: string | null;
}

/**
 * A page of jobs, newest first; `next` is the cursor of the following ones.
 */
export interface JobList {
  jobs: Job[];
  next: string | null;
}

/**
 * Every refusal: the product's own message, with what is allowed and what to do.
 */
export interface Fault {
  error: string;
}

/**
 * A raster that was sent; `upload:ID` names it in requests.
 */
export interface Upload {
  id: string;
  name: string;
  bytes: number;
  sha256: string;
}

/**
 * A folder; `path` leads to it.
 */
export interface FolderEntry {
  name: string;
  path: string;
}

/**
 * A raster; `path` names it in requests.
 */
export interface RasterEntry {
  name: string;
  path: string;
  bytes: number;
}

/**
 * A folder of those that the service reads.
 *
 * Args:
 *     path: Relative to the service's folders, with "/"; "": they themselves.
 *     left_out: Entries beyond the longest list.
 */
export interface FolderListing {
  path: string;
  folders: FolderEntry[];
  rasters: RasterEntry[];
  left_out: number;
}

/**
 * Who asks.
 *
 * Args:
 *     name: Of the token; "local" without tokens.
 *     may: Of "priority", "upload", "urls", "all".
 *     url_hosts: Whose rasters and STAC items they may name by address.
 *     has_session: Whether there is anything to sign out of.
 */
export interface Asker {
  name: string;
  may: string[];
  url_hosts: string[];
  has_session: boolean;
}
