/** What is known of a served model: `GET /api/models`. */

export interface ModelModality {
  name: string;
  kind: string;
  bands: string[];
  unit: string | null;
  required: boolean;
}

export interface ModelClass {
  name: string;
  color: string;
}

export interface ModelCard {
  name: string;
  method: string;
  modalities: ModelModality[];
  classes: ModelClass[];
  /** Modalities joined by "+" → score → value. */
  scores: Record<string, Record<string, number>>;
  licences: string[];
  crop_size: number | null;
  products: string[];
  /** Named figures that the service allows at most. */
  limits: Record<string, string>;
}

/** Products that every service makes. */
const PRODUCTS = [
  'class_map',
  'confidence',
  'entropy',
  'margin',
  'probabilities',
  'disagreement',
];

type Raw = Record<string, unknown>;

/** Read a card leniently: what a service does not say is left out of the page. */
export function readCard(raw: Raw): ModelCard {
  const method = raw.method;
  return {
    name: String(raw.name),
    method: typeof method === 'object' && method ? text((method as Raw).name) : text(method),
    modalities: list(raw.modalities).map((each) => ({
      name: text(each.name),
      kind: text(each.kind),
      bands: Array.isArray(each.bands) ? each.bands.map(String) : [],
      unit: each.unit ? text(each.unit) : null,
      required: raw.supports_missing !== true,
    })),
    classes: list(raw.classes).map((each) => ({
      name: text(each.name),
      color: text(each.color ?? each.colour ?? '#888888'),
    })),
    scores: (raw.scores ?? {}) as Record<string, Record<string, number>>,
    licences: licences(raw),
    crop_size: typeof raw.crop_size === 'number' ? raw.crop_size : null,
    products: Array.isArray(raw.products) ? raw.products.map(String) : PRODUCTS,
    limits: Object.fromEntries(
      Object.entries((raw.limits ?? {}) as Raw).map(([name, value]) => [name, text(value)]),
    ),
  };
}

/** The models of an answer, which is a list or has one under `models`. */
export function readCards(answer: unknown): ModelCard[] {
  const models = Array.isArray(answer) ? answer : (answer as Raw).models;
  return list(models).map(readCard);
}

function licences(raw: Raw): string[] {
  const found = [raw.licence, raw.licences, raw.license].flat().filter(Boolean);
  return [...new Set(found.map((each) => text(each)))];
}

function list(value: unknown): Raw[] {
  return Array.isArray(value) ? (value as Raw[]) : [];
}

function text(value: unknown): string {
  return value === null || value === undefined ? '' : String(value);
}
