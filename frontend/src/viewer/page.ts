/** All parts of the page, drawn as the state is. */
import { render } from 'lit-html';
import type { App } from './app';
import { header, helpDialog, noticeBar, readout, tabBar } from './frame';
import { detailsPanel, layersPanel } from './panels';
import { fourBar } from './panes';

export function showPage(app: App): void {
  const { bar, layers, details, tabs, readout: below, notice, help } = app.parts;
  document.body.dataset['sheet'] = app.sheet ?? '';
  document.body.toggleAttribute('data-empty', app.view === null);
  render(header(app), bar);
  render(layersPanel(app), layers);
  render(detailsPanel(app), details);
  render(tabBar(app), tabs);
  render(readout(app), below);
  render(noticeBar(app), notice);
  render(helpDialog(app), help);
  if (app.view && app.maps) fourBar(app);
}
