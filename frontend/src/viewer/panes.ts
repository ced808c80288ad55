/** The choices of layers above maps: four of them, or two that are swiped. */
import { html, render } from 'lit-html';
import { h } from '../shared/html';
import type { App } from './app';
import { layerOptions } from './parts';

/** The choice of a layer above each of four maps, and of the two that are swiped. */
export function fourBar(app: App): void {
  const isFour = app.state.arrangement === 'four';
  app.maps!.panes.forEach((pane, i) => {
    let bar = pane.element.querySelector<HTMLElement>('.pane-bar');
    if (!bar) pane.element.append((bar = h('div', { class: 'pane-bar' })));
    const choose = (event: Event): void => {
      app.state.four[i] = (event.target as HTMLSelectElement).value || null;
      app.arrange();
    };
    const four = html`<select aria-label=${`Layer of map ${i + 1}`} @change=${choose}>
      ${layerOptions(app, app.state.four[i] ?? null, 'As in the list')}
    </select>`;
    render(isFour ? four : app.state.arrangement === 'swipe' ? swipeChoices(app) : html``, bar);
  });
}

function swipeChoices(app: App): unknown {
  const side = (name: 'left' | 'right'): unknown => html`<select
    class=${name}
    aria-label=${`Layer on the ${name}`}
    @change=${(event: Event) => {
      app.state.swipe[name] = (event.target as HTMLSelectElement).value || null;
      app.arrange();
    }}
  >
    ${layerOptions(app, app.state.swipe[name], 'As in the list')}
  </select>`;
  return html`${side('left')}${side('right')}`;
}
