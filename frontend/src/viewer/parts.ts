/** Small pieces that several panels share. */
import { html, nothing, type TemplateResult } from 'lit-html';
import type { Band } from '../shared/contract';
import type { App } from './app';
import { digits } from './measure';

/** Options of a choice of layers, the current one chosen. */
export function layerOptions(app: App, current: string | null, none: string | null): unknown {
  return [
    none === null ? nothing : html`<option value="" ?selected=${current === null}>${none}</option>`,
    app.layers.map(
      (layer) => html`<option value=${layer.id} ?selected=${layer.id === current} .selected=${layer.id === current}>${layer.title}</option>`,
    ),
  ];
}

/** Units of manifests as people write them. */
const UNITS: Record<string, string> = { db: 'dB', degree: '°', dn: 'DN' };

/** A physical value and its unit, with as many digits as it has. */
export function valueText(value: number, unit: string | null | undefined): string {
  const text = Number.isInteger(value) ? value.toLocaleString('en') : digits(value, 5);
  return unit ? `${text} ${UNITS[unit] ?? unit}` : text;
}

export function physical(stored: number, band: Band | undefined): number {
  return stored * (band?.factor ?? 1) + (band?.summand ?? 0);
}

export function percent(share: number): string {
  const value = share * 100;
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

/** A coloured square; the colour goes by the object model, as a security policy may forbid attributes. */
export function swatch(colour: string): TemplateResult {
  return html`<span class="swatch" aria-hidden="true" .style=${`background:${colour}`}></span>`;
}

/** A bar with a share of its length filled. */
export function bar(share: number, colour = 'var(--accent)'): TemplateResult {
  const width = Math.min(100, Math.max(0, share * 100));
  return html`<span class="meter" aria-hidden="true"
    ><span .style=${`width:${width}%;background:${colour}`}></span
  ></span>`;
}
