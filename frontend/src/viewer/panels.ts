/** The panels: layers on the left; pixel, places, labels and sample on the right. */
import { html, nothing, type TemplateResult } from 'lit-html';
import { repeat } from 'lit-html/directives/repeat.js';
import type { ClassEntry, Layer, Why } from '../shared/contract';
import type { App, Panel } from './app';
import { PANELS } from './frame';
import { crsText, degreesText, toLonLat } from './ground';
import { digits } from './measure';
import { indexRangeOf, isMissing, pcaRanges } from './paint';
import { bar, percent, physical, swatch, valueText } from './parts';
import { rampGradient, RAMPS, type RampName } from './ramps';
import type { Shown } from './state';
import { bandRange, modesOf, rangeOf, type Mode, type Range, type Style } from './style';

const MODES: Record<Mode, string> = {
  rgb: 'RGB', single: 'One band', index: 'Index', pca: 'PCA', classes: '', number: '',
}; // prettier-ignore

// ---- Layers

export function layersPanel(app: App): unknown {
  if (!app.view) return nothing;
  const layers = [...app.state.layers].reverse();
  return html`
    <h2>Layers</h2>
    <ol class="layer-list">
      ${repeat(layers, (each) => each.id, (each) => layerItem(app, each))}
    </ol>
    ${app.view.notes.map((note) => html`<p class="note">${note}</p>`)}
  `;
}

let dragged: string | null = null;

function layerItem(app: App, shown: Shown): TemplateResult {
  const layer = app.layer(shown.id);
  const { id } = shown;
  const isOpen = app.open.has(id);
  const error = app.errors.get(id);
  const drop = (event: DragEvent): void => {
    event.preventDefault();
    if (!dragged || dragged === id) return;
    const order = app.state.layers.map((each) => each.id);
    app.moveLayer(dragged, order.indexOf(id) - order.indexOf(dragged));
  };
  return html`<li
    class="layer"
    data-layer=${id}
    @dragover=${(event: DragEvent) => event.preventDefault()}
    @drop=${drop}
  >
    <div class="layer-head">
      <span class="drag" draggable="true" title="Drag to another place" aria-hidden="true" @dragstart=${() => (dragged = id)}>⠿</span>
      <label class="name"
        ><input
          type="checkbox"
          .checked=${shown.isShown}
          @change=${(event: Event) => app.setShown(id, { isShown: (event.target as HTMLInputElement).checked })}
        /><span>${layer.title}</span></label
      >
      <button class="quiet small" aria-label=${`Move ${layer.title} up`} title="Up" @click=${() => app.moveLayer(id, 1)}>↑</button>
      <button class="quiet small" aria-label=${`Move ${layer.title} down`} title="Down" @click=${() => app.moveLayer(id, -1)}>↓</button>
      <button
        class="quiet small"
        aria-expanded=${String(isOpen)}
        aria-label=${`${layer.kind === 'image' ? 'Style' : 'Legend'} of ${layer.title}`}
        @click=${() => {
          if (isOpen) app.open.delete(id);
          else app.open.add(id);
          app.later();
        }}
      >
        ${isOpen ? '▾' : '▸'}
      </button>
    </div>
    <label class="opacity" ?hidden=${!shown.isShown}
      ><span class="hidden-text">Opacity of ${layer.title}</span
      ><input
        type="range"
        min="0"
        max="1"
        step="0.05"
        .value=${String(shown.opacity)}
        @input=${(event: Event) => app.setShown(id, { opacity: Number((event.target as HTMLInputElement).value) })}
      /><span class="number muted">${percent(shown.opacity)}</span></label
    >
    ${error ? html`<p class="fault">${error}</p>` : nothing}
    ${isOpen ? html`<div class="style">${styleOf(app, layer, shown.style)}</div>` : nothing}
  </li>`;
}

function styleOf(app: App, layer: Layer, style: Style): unknown {
  if (style.mode === 'classes') return classLegend(app, layer, style);
  if (style.mode === 'number') return rampStyle(app, layer, style);
  return imageStyle(app, layer, style);
}

function classLegend(app: App, layer: Layer, style: Style): TemplateResult {
  const entries: ClassEntry[] = layer.kind === 'names' ? layer.names : app.view!.classes;
  const hasAreas = layer.role === 'class_map' || layer.kind === 'names';
  const total = entries.reduce((sum, each) => sum + (each.pixels ?? 0), 0);
  const toggle = (value: number): void => {
    const off = style.off.includes(value) ? style.off.filter((each) => each !== value) : [...style.off, value];
    app.setStyle(layer.id, { off });
  };
  return html`<ul class="legend">
      ${entries.map(
        (each) => html`<li>
          <label
            ><input type="checkbox" .checked=${!style.off.includes(each.value)} @change=${() => toggle(each.value)} />
            ${swatch(each.colour)}<span class="name">${each.name}</span>
            ${hasAreas ? html`<span class="number muted">${areaOf(each, total)}</span>` : nothing}</label
          >
        </li>`,
      )}
    </ul>
    <div class="row">
      <button class="small" @click=${() => app.setStyle(layer.id, { off: [] })}>All</button>
      <button class="small" @click=${() => app.setStyle(layer.id, { off: entries.map((each) => each.value) })}>None</button>
    </div>`;
}

function areaOf(entry: ClassEntry, total: number): string {
  const share = entry.pixels !== null && total > 0 ? ` · ${percent(entry.pixels / total)}` : '';
  if (entry.area_ha !== null) return `${digits(entry.area_ha, 3)} ha${share}`;
  return entry.pixels === null ? '' : `${entry.pixels.toLocaleString('en')} px${share}`;
}

function rampStyle(app: App, layer: Layer, style: Style): TemplateResult {
  const band = style.bands[0] ?? 0;
  return html`
    <div class="ramp" role="img" aria-label=${`Colours from low to high: ${style.ramp}`} .style=${`background:${rampGradient(style.ramp)}`}></div>
    ${bandStretch(app, layer, style, band, 'Range')} ${rampChoice(app, layer, style)}
    ${layer.bands.length > 1 ? bandChoice(app, layer, style, 0, 'Band') : nothing}
  `;
}

function rampChoice(app: App, layer: Layer, style: Style): TemplateResult {
  const choose = (event: Event): void =>
    app.setStyle(layer.id, { ramp: (event.target as HTMLSelectElement).value as RampName });
  return html`<label class="field"
    ><span>Colours</span
    ><select @change=${choose}>
      ${RAMPS.map((each) => html`<option .selected=${each === style.ramp}>${each}</option>`)}
    </select></label
  >`;
}

function bandChoice(app: App, layer: Layer, style: Style, position: number, title: string): TemplateResult {
  const choose = (event: Event): void => {
    const bands = [...style.bands];
    while (bands.length < position) bands.push(bands[0] ?? 0);
    bands[position] = Number((event.target as HTMLSelectElement).value);
    app.setStyle(layer.id, { bands });
  };
  const current = style.bands[position] ?? style.bands[0] ?? 0;
  return html`<label class="field"
    ><span>${title}</span
    ><select @change=${choose} aria-label=${`${title} of ${layer.title}`}>
      ${layer.bands.map(
        (band, i) => html`<option value=${i} .selected=${i === current}>
          ${band.name}${band.wavelength_um ? ` · ${digits(band.wavelength_um, 3)} µm` : ''}
        </option>`,
      )}
    </select></label
  >`;
}

/** Two numbers, least and most of a stretch. */
function rangeField(title: string, [low, high]: Range, unit: string | null, set: (range: Range) => void): TemplateResult {
  const read = (event: Event): void => {
    const inputs = (event.target as HTMLElement).closest('.range')!.querySelectorAll('input');
    const [least, most] = [...inputs].map((each) => each.valueAsNumber);
    if (Number.isFinite(least) && Number.isFinite(most) && most! > least!) set([least!, most!]);
  };
  const field = (value: number, name: string): TemplateResult =>
    html`<input type="number" step="any" aria-label=${`${title}: ${name}`} .value=${String(Number(value.toPrecision(5)))} @change=${read} />`;
  return html`<div class="field range" title=${unit ? `in ${unit}` : nothing}>
    <span>${title}</span>${field(low, 'from')}<span aria-hidden="true">–</span>${field(high, 'to')}
  </div>`;
}

function bandStretch(app: App, layer: Layer, style: Style, band: number, title: string): TemplateResult {
  const set = (range: Range): void => app.setStyle(layer.id, { ranges: { ...style.ranges, [band]: range } });
  return rangeField(title, rangeOf(layer, style, band), layer.bands[band]?.unit ?? null, set);
}

function imageStyle(app: App, layer: Layer, style: Style): TemplateResult {
  const modes = modesOf(layer);
  const set = (changes: Partial<Style>): void => app.setStyle(layer.id, changes);
  return html`
    ${modes.length > 1
      ? html`<div class="segments" role="group" aria-label=${`How ${layer.title} is shown`}>
          ${modes.map(
            (mode) => html`<button class="small" aria-pressed=${String(mode === style.mode)} @click=${() => set({ mode })}>${MODES[mode]}</button>`,
          )}
        </div>`
      : nothing}
    ${bandsOf(app, layer, style)}
    <label class="field"
      ><span>Gamma</span
      ><input
        type="range"
        min="0.4"
        max="2.5"
        step="0.1"
        .value=${String(style.gamma)}
        @input=${(event: Event) => set({ gamma: Number((event.target as HTMLInputElement).value) })}
      /><span class="number muted">${style.gamma.toFixed(1)}</span></label
    >
    <div class="row">
      <button class="small" title="Percentiles 2 and 98 of the scene" @click=${() => set({ ranges: {}, indexRange: null, pca: [null, null, null], gamma: 1 })}>
        2–98 %
      </button>
      <button class="small" title="Smallest and largest value" @click=${() => set({ ranges: extremes(layer) })}>Whole range</button>
    </div>
  `;
}

function extremes(layer: Layer): Record<number, Range> {
  return Object.fromEntries(
    layer.bands.map((band, i): [number, Range] => {
      const { least, most } = band;
      return [i, least !== null && most !== null && most > least ? [least, most] : bandRange(band)];
    }),
  );
}

function bandsOf(app: App, layer: Layer, style: Style): unknown {
  const set = (changes: Partial<Style>): void => app.setStyle(layer.id, changes);
  if (style.mode === 'rgb') {
    return ['Red', 'Green', 'Blue'].map((title, i) => {
      const band = style.bands[i] ?? style.bands[0] ?? 0;
      return html`${bandChoice(app, layer, style, i, title)}${bandStretch(app, layer, style, band, 'Stretch')}`;
    });
  }
  if (style.mode === 'index') {
    return html`<label class="field"
        ><span>Index</span
        ><select @change=${(event: Event) => set({ index: (event.target as HTMLSelectElement).value })}>
          ${layer.indices.map((each) => html`<option value=${each.id} .selected=${each.id === style.index}>${each.title}</option>`)}
        </select></label
      >
      <div class="ramp" role="img" aria-label="Colours from low to high" .style=${`background:${rampGradient(style.ramp === 'gray' ? 'greens' : style.ramp)}`}></div>
      ${rangeField('Range', indexRangeOf(style), null, (indexRange) => set({ indexRange }))}`;
  }
  if (style.mode === 'pca') {
    const ranges = pcaRanges(layer, style);
    return ranges.map((range, i) =>
      rangeField(`Component ${i + 1}`, range, null, (chosen) => {
        const pca = [...style.pca];
        pca[i] = chosen;
        set({ pca });
      }),
    );
  }
  const band = style.bands[0] ?? 0;
  return html`${bandChoice(app, layer, style, 0, 'Band')}${bandStretch(app, layer, style, band, 'Stretch')}${rampChoice(app, layer, style)}`;
}

// ---- Details

export function detailsPanel(app: App): unknown {
  if (!app.view) return nothing;
  const panels = PANELS.filter((each) => each.id !== 'layers' && each.isThere(app));
  const bodies: Partial<Record<Panel, (app: App) => unknown>> = {
    pixel: pixelPanel,
    places: placesPanel,
    label: labelPanel,
    sample: samplePanel,
  };
  return html`
    <div class="segments wide" role="group" aria-label="Details">
      ${panels.map(
        ({ id, title }) =>
          html`<button aria-pressed=${String(id === app.panel)} @click=${() => app.showPanel(id)}>${title}</button>`,
      )}
    </div>
    <div class="body">${bodies[app.panel]?.(app)}</div>
  `;
}

function pixelPanel(app: App): unknown {
  const { selected } = app.state;
  const view = app.view!;
  if (!selected) return html`<p class="muted">Click a pixel, or press <kbd>Enter</kbd> for the one in the middle.</p>`;
  const [row, col] = selected;
  const { ground } = view;
  const isHidden = Boolean(view.sampling?.is_blind);
  return html`
    <dl class="facts">
      <dt>Row, column</dt>
      <dd class="number" data-pixel=${`${row},${col}`}>${row}, ${col}</dd>
      ${ground.crs
        ? html`<dt>${ground.crs}</dt>
            <dd class="number">${crsText(ground, col + 0.5, row + 0.5)}</dd>`
        : html`<dt>CRS</dt>
            <dd>none: the rasters say none</dd>`}
      ${ground.lonlat
        ? html`<dt>Degrees</dt>
            <dd class="number">${degreesText(toLonLat(ground.lonlat, col + 0.5, row + 0.5), ground.pixel_metres?.[0])}</dd>`
        : nothing}
    </dl>
    ${app.layers.filter((each) => each.kind === 'classes' || each.kind === 'names').map((each) => classRow(app, each))}
    ${isHidden ? nothing : probabilities(app)}
    ${app.layers.filter((each) => each.kind === 'number' && each.role !== 'probability').map((each) => valuesOf(app, each))}
    ${app.layers.filter((each) => each.kind === 'image' && each.role !== 'probability').map((each) => valuesOf(app, each))}
    ${view.why && !isHidden ? whyPart(app) : nothing}
  `;
}

/** What was read of a layer, or a word for why there is nothing. */
function readOf(app: App, layer: Layer): number[] | string {
  const read = app.stored.get(layer.id);
  if (read === undefined) return 'reading …';
  if (read === null) return 'outside';
  if (read instanceof Error) return read.message;
  return read.every((each) => isMissing(each, layer.nodata)) ? 'no data' : read;
}

/** For tests and for people who copy: the stored values, whole. */
function rawOf(app: App, layer: Layer): unknown {
  const read = app.stored.get(layer.id);
  return Array.isArray(read) ? read.join(' ') : nothing;
}

function classRow(app: App, layer: Layer): TemplateResult {
  const read = readOf(app, layer);
  const entries = layer.kind === 'names' ? layer.names : app.view!.classes;
  const entry = typeof read === 'string' ? undefined : entries.find((each) => each.value === read[0]);
  return html`<div class="reading" data-read=${layer.id} data-stored=${rawOf(app, layer)}>
    <span class="muted">${layer.title}</span>
    <span class="class">${entry ? html`${swatch(entry.colour)}${entry.name}` : typeof read === 'string' ? read : String(read[0])}</span>
  </div>`;
}

function probabilities(app: App): unknown {
  const { classes } = app.view!;
  const layers = app.layers.filter((each) => each.role === 'probability');
  const bars = layers.flatMap((layer) => {
    const read = readOf(app, layer);
    if (typeof read === 'string') return [];
    return read.map((value, i) => {
      const name = layer.bands.length === 1 ? layer.title : (layer.bands[i]?.name ?? '');
      const colour = classes.find((each) => each.name === (layer.bands[i]?.name ?? '') || each.name === layer.title)?.colour;
      return { name, colour, share: physical(value, layer.bands[i]) };
    });
  });
  if (!layers.length) return nothing;
  return html`<h3>Probabilities</h3>
    ${layers.map((layer) => html`<span hidden data-read=${layer.id} data-stored=${rawOf(app, layer)}></span>`)}
    ${bars.length ? shares(bars) : html`<p class="muted">${String(readOf(app, layers[0]!))}</p>`}`;
}

function shares(bars: { name: string; colour: string | undefined; share: number }[]): TemplateResult {
  return html`<ul class="shares">
    ${[...bars]
      .sort((a, b) => b.share - a.share)
      .map(
        ({ name, colour, share }) =>
          html`<li><span>${name}</span>${bar(share, colour)}<span class="number">${percent(share)}</span></li>`,
      )}
  </ul>`;
}

function valuesOf(app: App, layer: Layer): TemplateResult {
  const read = readOf(app, layer);
  const attributes = { id: layer.id, raw: rawOf(app, layer) };
  const isShort = layer.bands.length === 1;
  const text = (value: number, i: number): string =>
    isMissing(value, layer.nodata) ? 'no data' : valueText(physical(value, layer.bands[i]), layer.bands[i]?.unit);
  if (isShort || typeof read === 'string') {
    return html`<div class="reading" data-read=${attributes.id} data-stored=${attributes.raw}>
      <span class="muted">${layer.title}</span
      ><span class="number">${typeof read === 'string' ? read : text(read[0]!, 0)}</span>
    </div>`;
  }
  const rows = read.map(
    (value, i) => html`<tr>
      <th scope="row">${layer.bands[i]!.name}</th>
      <td class="number">${text(value, i)}</td>
    </tr>`,
  );
  const table = html`<table class="values"><tbody>${rows}</tbody></table>`;
  return html`<section class="values-of" data-read=${attributes.id} data-stored=${attributes.raw}>
    <h3>${layer.title}</h3>
    ${read.length >= 6 ? spectrum(layer, read) : nothing}
    ${read.length > 12 ? html`<details><summary>${read.length} bands</summary>${table}</details>` : table}
  </section>`;
}

/** A line over bands, by wavelength where they have one. */
function spectrum(layer: Layer, read: number[]): TemplateResult {
  const hasWaves = layer.bands.every((each) => each.wavelength_um !== null);
  const points = read
    .map((value, i) => ({
      x: hasWaves ? layer.bands[i]!.wavelength_um! : i,
      y: isMissing(value, layer.nodata) ? NaN : physical(value, layer.bands[i]),
    }))
    .filter((each) => Number.isFinite(each.y))
    .sort((a, b) => a.x - b.x);
  const xs = points.map((each) => each.x);
  const ys = points.map((each) => each.y);
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const path = points
    .map(({ x, y }, i) => {
      const px = 2 + (236 * (x - left)) / (right - left || 1);
      const py = 46 - (44 * (y - low)) / (high - low || 1);
      return `${i ? 'L' : 'M'}${px.toFixed(1)} ${py.toFixed(1)}`;
    })
    .join('');
  const ends = hasWaves ? `${digits(left, 3)} – ${digits(right, 3)} µm` : `${read.length} bands`;
  return html`<svg class="spectrum" viewBox="0 0 240 48" role="img" aria-label=${`Values over ${ends}`}><path d=${path} /></svg>
    <p class="muted number axis"><span>${ends}</span><span>${digits(low)} – ${digits(high)}</span></p>`;
}

function whyPart(app: App): TemplateResult {
  const { why } = app;
  return html`<section class="why">
    <h3>Why</h3>
    ${why === null
      ? html`<button @click=${() => void app.askWhy()}>Ask the model</button>`
      : why === 'reading'
        ? html`<p class="muted" role="status">The model looks again …</p>`
        : why instanceof Error
          ? html`<p class="fault">${why.message}</p>
              <button @click=${() => void app.askWhy()}>Try again</button>`
          : whyAnswer(app, why)}
    <label class="check"
      ><input
        type="checkbox"
        .checked=${app.isWhyAutomatic}
        @change=${(event: Event) => {
          app.isWhyAutomatic = (event.target as HTMLInputElement).checked;
          if (app.isWhyAutomatic && why === null) void app.askWhy();
          app.later();
        }}
      />Ask with every click</label
    >
  </section>`;
}

function whyAnswer(app: App, why: Why): TemplateResult {
  const { classes } = app.view!;
  const bars = why.probabilities.map((share, i) => ({
    name: classes[i]?.name ?? String(i),
    colour: classes[i]?.colour,
    share,
  }));
  const best = (values: number[]): string => classes[values.indexOf(Math.max(...values))]?.name ?? '';
  return html`<p>${why.text}</p>
    ${shares(bars)}
    ${why.influences.length
      ? html`<table class="values">
          <thead>
            <tr><th scope="col">Without</th><th scope="col">most likely</th><th scope="col" class="number">class loses</th></tr>
          </thead>
          <tbody>
            ${why.influences.map(
              (each) => html`<tr>
                <th scope="row">${each.modality}</th>
                <td>${best(each.probabilities)}</td>
                <td class="number">${percent(each.lost)}</td>
              </tr>`,
            )}
          </tbody>
        </table>`
      : nothing}`;
}

// ---- Places

function placesPanel(app: App): TemplateResult {
  const lists = app.view!.places;
  const choose = (event: Event): void => {
    app.list = Number((event.target as HTMLSelectElement).value);
    app.place = -1;
    app.later();
  };
  const list = lists[app.list] ?? lists[0]!;
  const number = lists.indexOf(list);
  return html`
    <label class="field"
      ><span class="hidden-text">List of places</span
      ><select @change=${choose}>
        ${lists.map((each, i) => html`<option value=${i} .selected=${i === number}>${each.title} (${each.places.length})</option>`)}
      </select></label
    >
    <p class="row">
      <button @click=${() => app.stepPlace(-1)}>← Previous <kbd>p</kbd></button>
      <button @click=${() => app.stepPlace(1)}>Next <kbd>n</kbd> →</button>
    </p>
    ${list.places.length ? nothing : html`<p class="muted">There is none in this scene.</p>`}
    <ol class="places">
      ${list.places.map(
        (place, i) => html`<li>
          <button
            data-place=${`${number}/${i}`}
            aria-current=${i === app.place && number === app.list ? 'true' : nothing}
            @click=${() => app.goToPlace(number, i)}
          >
            ${place.thumbnail
              ? html`<img alt="" loading="lazy" src=${new URL(place.thumbnail, app.base).href} />`
              : nothing}
            <span><span class="muted number">${i + 1}</span> ${place.text}</span>
          </button>
        </li>`,
      )}
    </ol>
  `;
}

// ---- Labels

const SAVED: Record<string, string> = {
  loading: 'Reading what is saved …',
  saved: 'Saved',
  waiting: 'Not saved yet …',
  saving: 'Saving …',
  failed: 'Not saved',
  unreadable: 'What is saved cannot be read',
};

function saveState(state: string, message: string, retry: () => void): TemplateResult {
  const isBad = state === 'failed' || state === 'unreadable';
  return html`<div class=${`save ${state}`} role="status" data-save=${state}>
    <span class="dot" aria-hidden="true"></span>${SAVED[state]}${message ? html`<p>${message}</p>` : nothing}
    ${isBad ? html`<button class="small" @click=${retry}>Try again</button>` : nothing}
  </div>`;
}

function labelPanel(app: App): unknown {
  const { labels, tools } = app;
  const labelling = app.view!.labelling!;
  if (!labels || !tools) return nothing;
  const { history } = labels;
  const tool = (name: 'polygon' | 'brush' | 'erase' | 'edit', text: string, key: string): TemplateResult =>
    html`<button aria-pressed=${String(tools.tool === name)} ?disabled=${!labels.isReady} @click=${() => app.chooseTool(name)}>
      ${text} <kbd>${key}</kbd>
    </button>`;
  return html`
    <div class="tool-grid" role="group" aria-label="Tool">
      ${tool('polygon', 'Polygon', 'g')}${tool('brush', 'Brush', 'b')}${tool('erase', 'Eraser', 'e')}${tool('edit', 'Change', 'v')}
    </div>
    ${tools.tool === 'brush' || tools.tool === 'erase' ? brushSize(app) : nothing}
    ${toolHint(app)}
    <h3>Class</h3>
    ${classButtons(labelling.classes.map((each) => each), app.labelClass, (i) => app.chooseClass(i))}
    <div class="row">
      <button ?disabled=${!history.canUndo} @click=${() => labels.undo()}>Undo</button>
      <button ?disabled=${!history.canRedo} @click=${() => labels.redo()}>Redo</button>
      <button class="danger" ?disabled=${tools.selectedId === null} @click=${() => app.deleteSelected()}>Delete</button>
    </div>
    ${saveState(labels.state, labels.message, () => void (labels.state === 'unreadable' ? labels.load() : labels.save()))}
    ${labels.state === 'failed' && labels.isStale
      ? html`<button class="small danger" @click=${() => void labels.load()}>Drop mine and read what is saved</button>`
      : nothing}
    ${labelCounts(app)}
    <p class="muted">
      Kept in ${labelling.file}.
      ${labelling.is_used
        ? 'Training takes them.'
        : `Training does not take them${labelling.split ? `: the scene is of split ${labelling.split}` : ''}.`}
    </p>
  `;
}

function toolHint(app: App): unknown {
  const hints: Partial<Record<string, TemplateResult>> = {
    polygon: html`Click the corners; a double click ends. With keys: <kbd>Enter</kbd> at the middle, <kbd>Space</kbd> ends.`,
    brush: html`Paint with the button held down. What is painted last holds.`,
    erase: html`Take painted pixels away.`,
    edit: html`Click a polygon; drag its corners; Alt and click takes a corner out.`,
  };
  const hint = hints[app.tools!.tool];
  return hint ? html`<p class="muted hint">${hint}</p>` : nothing;
}

function brushSize(app: App): TemplateResult {
  const tools = app.tools!;
  const set = (event: Event): void => tools.setRadius(2 ** Number((event.target as HTMLInputElement).value));
  return html`<label class="field"
    ><span>Radius</span
    ><input type="range" min="-1" max="8" step="0.25" .value=${String(Math.log2(tools.radius))} @input=${set} />
    <span class="number muted">${digits(tools.radius, 2)} px</span></label
  >`;
}

function classButtons(classes: { name: string; colour?: string }[], chosen: number, choose: (i: number) => void): TemplateResult {
  return html`<div class="class-list" role="group" aria-label="Class">
    ${classes.map(
      (each, i) => html`<button aria-pressed=${String(i === chosen)} @click=${() => choose(i)}>
        ${each.colour ? swatch(each.colour) : nothing}<span class="name">${each.name}</span>${i < 9 ? html`<kbd>${i + 1}</kbd>` : nothing}
      </button>`,
    )}
  </div>`;
}

function labelCounts(app: App): TemplateResult {
  const { polygons } = app.labels!.history;
  const counts = new Map<string, number>();
  for (const { class: name } of polygons) counts.set(name, (counts.get(name) ?? 0) + 1);
  const text = [...counts].map(([name, count]) => `${name} ${count}`).join(', ');
  return html`<p data-polygons=${polygons.length}>
    ${polygons.length} ${polygons.length === 1 ? 'polygon' : 'polygons'}${text ? ` (${text})` : ''}
  </p>`;
}

// ---- The sample

function samplePanel(app: App): unknown {
  const { sample } = app;
  const sampling = app.view!.sampling!;
  if (!sample) return nothing;
  const total = sampling.ids.length;
  const id = sampling.ids[app.place];
  const name = id === undefined ? null : (sample.labels.get(id) ?? null);
  const colours = new Map(app.view!.classes.map((each) => [each.name, each.colour]));
  const classes = sampling.classes.map((each) => ({ name: each, colour: colours.get(each) ?? '' }));
  return html`
    <p>
      <strong class="number" data-done=${sample.done}>${sample.done} of ${total}</strong> points have a class
      <progress max=${total} value=${sample.done} aria-label="Points with a class"></progress>
    </p>
    ${sampling.is_blind ? html`<p class="note">The map and what is made of it are hidden while the sample is labelled.</p>` : nothing}
    <p class="row">
      <button @click=${() => app.stepPlace(-1)}>← <kbd>p</kbd></button>
      <span class="number">${app.place < 0 ? 'No point yet' : `Point ${app.place + 1} (id ${id})`}</span>
      <button @click=${() => app.stepPlace(1)}><kbd>n</kbd> →</button>
    </p>
    ${classButtons(classes, name === null ? -1 : sampling.classes.indexOf(name), (i) => app.labelPoint(i))}
    <button ?disabled=${name === null} @click=${() => app.labelPoint(null)}>No class <kbd>0</kbd></button>
    ${saveState(sample.state, sample.message, () => void (sample.state === 'unreadable' ? sample.load() : sample.save()))}
    <p class="muted">Kept in ${sampling.file}.</p>
  `;
}
