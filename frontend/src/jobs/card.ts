/** What is known of a served model: `GET /api/models`. */

export interface ModelModality {
  name: string;
  kind: string;
  bands: string[];
  unit: string | null;
}

export interface ModelCard {
  name: string;
  method: string;
  modalities: ModelModality[];
  classes: { name: string; color: string }[];
  /** Modalities joined by "+" → score → value. */
  scores: Record<string, Record<string, number>>;
  licence: string | null;
  crop_size: number;
  overlap: number;
  /** Whether it maps without a modality; null: not known yet. */
  supports_missing: boolean | null;
}

/** Products that the form offers. */
export const PRODUCTS: readonly string[] = [
  'class_map',
  'confidence',
  'entropy',
  'margin',
  'probabilities',
  'disagreement',
];
