/** One job in the list. */
import { fill, h } from '../shared/html';
import type { Job, JobState } from '../shared/contract';
import { bytes, duration, progress, share, when } from './format';
import { isEnded } from './store';

export interface Actions {
  cancel(job: Job): void;
  resume(job: Job): void;
  remove(job: Job): void;
  again(job: Job): void;
  log(job: Job): void;
  copyTiles(job: Job): void;
  copyFile(job: Job, name: string): void;
  result(job: Job, name: string): string;
}

const WORDS: Record<JobState, string> = {
  queued: 'waiting',
  running: 'running',
  cancelling: 'stopping',
  cancelled: 'stopped',
  failed: 'failed',
  done: 'done',
};

/** A job's element, which changes in place so that the focus stays where it is. */
export class JobRow {
  readonly element: HTMLElement;
  private shown = '';
  private job: Job;
  private readonly heading = h('h3', {});
  private readonly badge = h('span', { class: 'badge' });
  private readonly bar = h('progress', { max: 1 });
  private readonly said = h('span', { class: 'muted number' });
  private readonly facts = h('p', { class: 'muted facts' });
  private readonly fault = h('p', { class: 'error' });
  private readonly buttons = h('div', { class: 'actions' });
  private readonly results = h('details', { class: 'results' });
  private readonly preview = h('div', { class: 'preview', hidden: true });

  constructor(
    job: Job,
    private readonly actions: Actions,
  ) {
    this.job = job;
    const id = `job-${job.id}`;
    this.heading.id = id;
    this.element = h(
      'article',
      { class: 'panel job', 'aria-labelledby': id, 'data-job': job.id, tabindex: -1 },
      h(
        'div',
        { class: 'body' },
        h('header', {}, this.heading, this.badge),
        h('div', { class: 'progress' }, this.bar, this.said),
        this.facts,
        this.fault,
        this.results,
        this.buttons,
      ),
      this.preview,
    );
  }

  show(job: Job, now: number): void {
    this.job = job;
    const part = share(job);
    set(this.heading, titleOf(job));
    set(this.badge, WORDS[job.state]);
    this.badge.dataset.state = job.state;
    const isOver = isEnded(job.state);
    (this.bar.parentElement as HTMLElement).hidden = isOver || job.state === 'queued';
    this.bar.setAttribute('aria-label', `Progress of ${titleOf(job)}`);
    if (part === null) this.bar.removeAttribute('value');
    else this.bar.value = part;
    set(this.said, remaining(job, now));
    set(this.facts, facts(job, now));
    set(this.fault, job.error ?? '');
    // Buttons and files are made again only when they change, so that a press is never lost.
    const look = JSON.stringify([job.state, job.results, job.view, job.tilejson]);
    if (look !== this.shown) {
      this.shown = look;
      this.showButtons();
      this.showResults();
    }
  }

  private showButtons(): void {
    const { job, actions } = this;
    const held = (document.activeElement as HTMLElement | null)?.dataset.action;
    const wasInside = this.buttons.contains(document.activeElement);
    const isOver = isEnded(job.state);
    const button = (name: string, text: string, act: (job: Job) => void, className = '') => {
      const element = h('button', { type: 'button', class: className, 'data-action': name }, text);
      element.setAttribute('aria-label', `${text}: ${titleOf(job)}`);
      element.addEventListener('click', () => act(this.job));
      return element;
    };
    fill(
      this.buttons,
      job.view
        ? h('a', { class: 'button primary', href: job.view, 'data-action': 'view' }, 'Look at the map')
        : null,
      job.tilejson ? button('tiles', 'Copy for QGIS', actions.copyTiles) : null,
      isOver || job.state === 'cancelling' ? null : button('cancel', 'Stop', actions.cancel),
      job.state === 'failed' || job.state === 'cancelled'
        ? button('resume', 'Go on', actions.resume)
        : null,
      button('log', 'Log', actions.log, 'quiet'),
      button('again', 'Again with changes', actions.again, 'quiet'),
      isOver ? button('remove', 'Delete', actions.remove, 'quiet danger') : null,
    );
    if (wasInside) {
      const same = this.buttons.querySelector<HTMLElement>(`[data-action="${held}"]`);
      (same ?? this.element).focus();
    }
  }

  private showResults(): void {
    const { job, actions } = this;
    const { results } = job;
    this.results.hidden = results.length === 0;
    const picture = results.find((each) => each.media_type === 'image/png');
    this.preview.hidden = !picture;
    if (picture) {
      const alt = `Preview of ${titleOf(job)}`;
      fill(this.preview, h('img', { src: actions.result(job, picture.name), alt, loading: 'lazy' }));
    }
    const total = results.reduce((sum, each) => sum + each.bytes, 0);
    fill(
      this.results,
      h('summary', {}, `${results.length} files, ${bytes(total)}`),
      h(
        'ul',
        {},
        results.map((each) => {
          const copy = h('button', { type: 'button', class: 'quiet' }, 'Copy address');
          copy.setAttribute('aria-label', `Copy address of ${each.name}`);
          copy.addEventListener('click', () => actions.copyFile(this.job, each.name));
          return h(
            'li',
            {},
            h('a', { class: 'name', href: actions.result(job, each.name), download: each.name }, each.name),
            h('span', { class: 'muted number' }, bytes(each.bytes)),
            copy,
          );
        }),
      ),
    );
  }
}

export function titleOf(job: Job): string {
  return job.title || `${job.model}, ${job.id.slice(0, 8)}`;
}

/** Progress, and how long the rest takes at the speed so far. */
function remaining(job: Job, now: number): string {
  const text = progress(job);
  const part = share(job);
  if (job.state !== 'running' || !job.started || !part || part === 1 || job.attempts > 1) return text;
  const spent = (now - Date.parse(job.started)) / 1000;
  const left = (spent * (1 - part)) / part;
  return spent < 5 || part < 0.02 ? text : `${text}, about ${duration(left)} left`;
}

function facts(job: Job, now: number): string {
  const parts = [job.model, `asked for ${when(job.created, now)}`];
  if (job.user !== 'local') parts.push(`by ${job.user}`);
  if (job.priority) parts.push(`priority ${job.priority}`);
  if (job.started && job.ended) {
    parts.push(`took ${duration((Date.parse(job.ended) - Date.parse(job.started)) / 1000)}`);
  }
  if (job.attempts > 1) parts.push(`begun ${job.attempts} times`);
  return parts.join(' · ');
}

function set(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
  if (element.tagName === 'P') element.hidden = !text;
}
