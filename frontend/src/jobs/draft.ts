/** The form's state, and the request that it becomes. */
import type { JobRequest } from '../shared/contract';
import type { ModelCard } from './card';

/** A raster as it is sent (`path`, address or `upload:ID`), and as people read it. */
export interface Source {
  value: string;
  label: string;
  bytes: number | null;
}

export type Output = NonNullable<JobRequest['outputs']>[number];
export const OUTPUTS: readonly Output[] = ['preview', 'polygons', 'areas'];

/** Kinds of test-time augmentation, as `predict --tta` names them. */
export const TTA = ['flips', 'turns', 'scales'] as const;

export interface Draft {
  model: string | null;
  inputs: Record<string, Source[]>;
  /** Address of a STAC item that names the rasters instead; '': none. */
  item: string;
  products: string[];
  outputs: Output[];
  priority: number;
  title: string;
  tta: string[];
  /** Modality → how its values become those of the training; see `predict --convert`. */
  convert: Record<string, string>;
  trustValues: boolean;
  /** Of windows, in pixels; null: the model's. */
  cropSize: number | null;
  overlap: number | null;
}

export interface Problem {
  /** Of the form: "model", "item", "products", "outputs", "windows" or "input:NAME". */
  field: string;
  text: string;
}

export function emptyDraft(model: string | null): Draft {
  return {
    model,
    inputs: {},
    item: '',
    products: ['class_map', 'confidence'],
    outputs: ['preview'],
    priority: 0,
    title: '',
    tta: [],
    convert: {},
    trustValues: false,
    cropSize: null,
    overlap: null,
  };
}

/** Add rasters to a modality, each once. */
export function addSources(draft: Draft, modality: string, added: readonly Source[]): Draft {
  const before = draft.inputs[modality] ?? [];
  const known = new Set(before.map((each) => each.value));
  const fresh = added.filter((each) => !known.has(each.value) && known.add(each.value));
  return { ...draft, inputs: { ...draft.inputs, [modality]: [...before, ...fresh] } };
}

export function removeSource(draft: Draft, modality: string, value: string): Draft {
  const rest = (draft.inputs[modality] ?? []).filter((each) => each.value !== value);
  return { ...draft, inputs: { ...draft.inputs, [modality]: rest } };
}

/** Put a name in or out of a list, keeping the order of `all`. */
export function toggled<T>(list: readonly T[], name: T, isOn: boolean, all: readonly T[]): T[] {
  const set = new Set(list);
  if (isOn) set.add(name);
  else set.delete(name);
  return all.filter((each) => set.has(each));
}

/** What keeps the draft from being sent, in the form's order. */
export function problems(draft: Draft, card: ModelCard | null): Problem[] {
  if (!card) return [{ field: 'model', text: 'Choose a model.' }];
  const found = rasterProblems(draft, card);
  if (!draft.products.length) found.push({ field: 'products', text: 'Choose a map.' });
  else if (draft.outputs.length && !draft.products.includes('class_map')) {
    const text = `${draft.outputs.join(' and ')} are made of the class map: choose it too.`;
    found.push({ field: 'outputs', text: text.charAt(0).toUpperCase() + text.slice(1) });
  }
  const { cropSize, overlap } = draft;
  if ([cropSize, overlap].some((each) => each !== null && !Number.isInteger(each))) {
    found.push({ field: 'windows', text: 'Sizes of windows are whole numbers of pixels.' });
  }
  return found;
}

/** What is missing of the rasters, or named twice: by modality, and by an item. */
function rasterProblems(draft: Draft, card: ModelCard): Problem[] {
  const named = card.modalities.filter((each) => draft.inputs[each.name]?.length);
  if (draft.item.trim()) {
    const text = 'The item names the rasters: clear this field, or remove those chosen above.';
    return named.length ? [{ field: 'item', text }] : [];
  }
  const found = card.modalities
    .filter((each) => !card.supports_missing && !named.includes(each))
    .map(({ name }) => ({ field: `input:${name}`, text: `Choose a raster of ${name}, or upload one.` }));
  const first = card.modalities[0];
  if (!found.length && !named.length && first) {
    found.push({ field: `input:${first.name}`, text: 'Choose a raster of one modality at least.' });
  }
  return found;
}

/** The request; rasters of modalities that the model does not take stay behind. */
export function toRequest(draft: Draft, card: ModelCard): JobRequest {
  const rasters: Record<string, string | string[]> = {};
  for (const { name } of card.modalities) {
    const values = (draft.inputs[name] ?? []).map((each) => each.value);
    if (values.length === 1) rasters[name] = values[0] as string;
    else if (values.length) rasters[name] = values;
  }
  const item = draft.item.trim() || null;
  const taken = new Set(item ? card.modalities.map((each) => each.name) : Object.keys(rasters));
  const convert = Object.entries(draft.convert)
    .map(([name, text]): [string, string] => [name, text.trim()])
    .filter(([name, text]) => text && taken.has(name));
  return {
    model: card.name,
    rasters,
    item,
    products: draft.products,
    outputs: draft.outputs,
    tta: draft.tta,
    priority: draft.priority,
    title: draft.title.trim(),
    convert: Object.fromEntries(convert),
    trust_values: draft.trustValues,
    crop_size: draft.cropSize,
    overlap: draft.overlap,
  };
}

/** The draft that a request came from, to send it again with changes. */
export function fromRequest(request: JobRequest): Draft {
  const inputs: Draft['inputs'] = {};
  for (const [name, value] of Object.entries(request.rasters ?? {})) {
    inputs[name] = [value].flat().map((each) => ({ value: each, label: each, bytes: null }));
  }
  const draft = emptyDraft(request.model ?? null);
  return {
    ...draft,
    inputs,
    item: request.item ?? '',
    products: request.products ?? draft.products,
    outputs: request.outputs ?? draft.outputs,
    priority: request.priority ?? 0,
    title: request.title ?? '',
    tta: request.tta ?? [],
    convert: request.convert ?? {},
    trustValues: request.trust_values ?? false,
    cropSize: request.crop_size ?? null,
    overlap: request.overlap ?? null,
  };
}
