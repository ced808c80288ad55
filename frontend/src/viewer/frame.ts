/** The frame around the maps: bar, read-out, notices, tabs of narrow pages, help. */
import { html, nothing, type TemplateResult } from 'lit-html';
import type { App, Panel } from './app';
import { crsText, degreesText, toLonLat } from './ground';
import { changeTheme, KEYS, toggleHelp } from './keys';
import { digits, lengthText } from './measure';

const ICONS = {
  one: 'M2 3h12v10H2z',
  swipe: 'M2 3h12v10H2zM8 1v14',
  four: 'M2 3h12v10H2zM8 3v10M2 8h12',
  distance: 'M2 12 12 2l2 2L4 14zM5 9l1.500 1.500M8 6l1.500 1.500M11 3l1.500 1.500',
  area: 'M3 12 2 5l6-3 6 4-2 7z',
  link: 'M7 9a3 3 0 0 0 4.200.3l2-2a3 3 0 0 0-4.200-4.200L8 4M9 7a3 3 0 0 0-4.200-.3l-2 2a3 3 0 0 0 4.200 4.200L8 12',
  whole: 'M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4',
  theme: 'M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12',
};

function icon(name: keyof typeof ICONS): TemplateResult {
  return html`<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;
}

interface Button {
  name: keyof typeof ICONS;
  text: string;
  key: string;
  pressed?: boolean;
  go: () => void;
}

function button({ name, text, key, pressed, go }: Button): TemplateResult {
  return html`<button
    class="icon"
    aria-label=${text}
    title=${`${text} (${key})`}
    aria-pressed=${pressed === undefined ? nothing : String(pressed)}
    @click=${go}
  >
    ${icon(name)}
  </button>`;
}

export function header(app: App): unknown {
  const { index } = app;
  if (!index) return html`<h1>terrafuse</h1>`;
  const { arrangement } = app.state ?? {};
  const tool = app.tools?.tool;
  return html`
    <h1 title=${index.software}>${index.title}</h1>
    ${index.views.length > 1 ? scenes(app) : nothing}
    <span class="space"></span>
    <div class="group" role="group" aria-label="Arrangement">
      ${button({ name: 'one', text: 'One map', key: 'o', pressed: arrangement === 'one', go: () => app.setArrangement('one') })}
      ${button({ name: 'swipe', text: 'Swipe between two layers', key: 's', pressed: arrangement === 'swipe', go: () => app.setArrangement('swipe') })}
      ${button({ name: 'four', text: 'Four maps', key: 'f', pressed: arrangement === 'four', go: () => app.setArrangement('four') })}
    </div>
    <div class="group" role="group" aria-label="Measure">
      ${button({ name: 'distance', text: 'Measure a distance', key: 'm', pressed: tool === 'distance', go: () => app.chooseTool('distance') })}
      ${button({ name: 'area', text: 'Measure an area', key: 'a', pressed: tool === 'area', go: () => app.chooseTool('area') })}
    </div>
    <div class="group" role="group" aria-label="Page">
      ${button({ name: 'whole', text: 'Whole scene', key: '0', go: () => app.maps?.fit(null) })}
      ${button({ name: 'link', text: 'Copy a link to this look', key: 'c', go: () => void app.copyLink() })}
      ${button({ name: 'theme', text: 'Light or dark', key: 't', go: () => changeTheme(app) })}
      <button class="icon" aria-label="Keys and help" title="Keys and help (?)" @click=${() => toggleHelp(app)}>?</button>
    </div>
  `;
}

function scenes(app: App): TemplateResult {
  const choose = (event: Event): void => {
    const entry = app.index.views.find((each) => each.id === (event.target as HTMLSelectElement).value);
    if (entry) void app.openScene(entry);
  };
  return html`<label class="scene"
    ><span class="hidden-text">Scene</span>
    <select @change=${choose}>
      ${app.index.views.map(
        (each) =>
          html`<option value=${each.id} .selected=${each.id === app.state?.scene}>
            ${each.title}${each.split ? ` · ${each.split}` : ''}${each.state === 'waiting' ? ' · not mapped yet' : ''}
          </option>`,
      )}
    </select></label
  >`;
}

export function helpDialog(app: App): TemplateResult {
  const groups = [...new Set(KEYS.map((each) => each.group))].filter(
    (group) =>
      (group !== 'Labels' || app.view?.labelling) && (group !== 'Sample' || app.view?.sampling),
  );
  return html`<dialog class="help" aria-labelledby="help-title" @close=${() => (app.isHelpShown = false)}>
    <form method="dialog">
      <h2 id="help-title">Keys</h2>
      <button class="quiet" aria-label="Close">✕</button>
    </form>
    <div class="key-groups">
      ${groups.map(
        (group) => html`<section>
          <h3>${group}</h3>
          <dl>
            ${KEYS.filter((each) => each.group === group && each.text).map(
              (each) => html`<dt>${each.shown.map((key) => html`<kbd>${key}</kbd> `)}</dt>
                <dd>${each.text}</dd>`,
            )}
          </dl>
        </section>`,
      )}
    </div>
    <p class="muted">${app.index?.software ?? ''}</p>
  </dialog>`;
}

/** Scale, north, and where the pointer or the middle of the map is. */
export function readout(app: App): unknown {
  const { view, maps } = app;
  if (!view || !maps) return nothing;
  const [col, row] = app.pointer ?? maps.centre;
  const { ground } = view;
  const metres = ground.pixel_metres?.[0];
  const inside = row >= 0 && col >= 0 && row < view.height && col < view.width;
  const places = [`row ${Math.floor(row)}, col ${Math.floor(col)}`];
  if (inside && ground.crs) places.unshift(crsText(ground, col, row));
  if (inside && ground.lonlat) places.unshift(degreesText(toLonLat(ground.lonlat, col, row), metres));
  const scale = scaleBar(maps.resolution * (metres ?? 1));
  const text = lengthText({ value: scale.length, isMetric: metres !== undefined });
  return html`
    <span class="north" title="North" role="img" aria-label=${northText(ground.north)} ?hidden=${!ground.crs}
      ><svg viewBox="0 0 16 16" width="22" height="22" aria-hidden="true" .style=${`transform:rotate(${ground.north}rad)`}>
        <path class="needle" d="M8 1 11.500 9H4.500z" /><path d="M8 15 4.500 9h7z" /></svg
      ><span aria-hidden="true">N</span></span
    >
    <span class="scale" title="Scale in the middle of the scene"
      ><span class="rule" .style=${`width:${scale.pixels}px`}></span><span class="number">${text}</span></span
    >
    <span class="where number">${places.map((each) => html`<span>${each}</span>`)}</span>
    ${app.measured ? html`<span class="measured number" role="status">${app.measured}</span>` : nothing}
  `;
}

function northText(angle: number): string {
  const degrees = Math.round((angle * 180) / Math.PI);
  return degrees === 0 ? 'North is up' : `North is ${Math.abs(degrees)}° ${degrees > 0 ? 'right' : 'left'} of up`;
}

/** A round length that fits 80 pixels of the page, beside the coordinates. */
export function scaleBar(metresPerPixel: number): { length: number; pixels: number } {
  const most = metresPerPixel * 80;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((each) => each * power).find((each) => each <= most) ?? power;
  return { length: Number(length.toPrecision(1)), pixels: length / metresPerPixel };
}

export function noticeBar(app: App): unknown {
  const { making, fault } = app;
  if (fault) return html`<p class="fault"><strong>Nothing to show.</strong> ${fault}</p>`;
  if (making) {
    const { done, total } = making;
    return html`<div class="making">
      <p>This scene is being mapped${total ? html`: ${done} of ${total} parts` : ' …'}</p>
      <progress max=${total ?? nothing} value=${total ? done : nothing} aria-label="Mapping"></progress>
    </div>`;
  }
  if (!app.view) return html`<p class="making">Reading the scene …</p>`;
  const unread = app.state.layers.filter((each) => each.isShown && app.errors.has(each.id));
  return html`
    ${app.notice ? html`<p class="said">${app.notice}</p>` : nothing}
    ${unread.map((each) => html`<p class="fault">${app.layer(each.id).title}: ${app.errors.get(each.id)}</p>`)}
  `;
}

/** Lists of places are made of the map, which a blind sample hides. */
function hasPlaces(app: App): boolean {
  const { view } = app;
  return !view?.sampling?.is_blind && Boolean(view?.places.some((each) => each.id !== 'sample'));
}

export const PANELS: { id: Panel; title: string; isThere: (app: App) => boolean }[] = [
  { id: 'layers', title: 'Layers', isThere: () => true },
  { id: 'pixel', title: 'Pixel', isThere: () => true },
  { id: 'places', title: 'Places', isThere: hasPlaces },
  { id: 'label', title: 'Label', isThere: (app) => app.labels !== null },
  { id: 'sample', title: 'Sample', isThere: (app) => app.sample !== null },
];

/** Tabs at the foot of narrow pages; a second press closes the sheet. */
export function tabBar(app: App): unknown {
  return PANELS.filter((each) => each.isThere(app)).map(
    ({ id, title }) => html`<button
      class="quiet"
      aria-pressed=${String(app.sheet === id)}
      @click=${() => {
        if (app.sheet === id) app.sheet = null;
        else app.showPanel(id);
        app.later();
      }}
    >
      ${title}
    </button>`,
  );
}

export function stretchText([low, high]: [number, number]): string {
  return `${digits(low)} – ${digits(high)}`;
}
