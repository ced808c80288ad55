/** The page of `terrafuse serve`: make maps, watch them, fetch them. */
import '../shared/look.css';
import './jobs.css';
import { fill, h } from '../shared/html';
import { themeButton } from '../shared/theme';
import type { Job, JobRequest } from '../shared/contract';
import { askForToken, confirmed, showLog } from './dialogs';
import { follow } from './events';
import { JobForm } from './form';
import { bytes } from './format';
import { JobRow, titleOf, type Actions } from './row';
import { absolute, Service } from './service';
import { isEnded, JobStore, type Filter } from './store';

/** Browsers keep six connections to a host; the page needs some for itself. */
const MOST_STREAMS = 3;
const BUSY_SECONDS = 3;
const IDLE_SECONDS = 20;
const FILTERS: [Filter, string][] = [
  ['all', 'All'],
  ['active', 'Under way'],
  ['done', 'Done'],
  ['failed', 'Not done'],
];

class Page {
  private readonly store = new JobStore();
  private readonly rows = new Map<string, JobRow>();
  private readonly streams = new Map<string, { close(): void }>();
  private filter: Filter = 'all';
  private cursor: string | null = null;
  private timer = 0;

  private readonly list = h('div', { class: 'jobs', id: 'jobs' });
  private readonly filters = h('div', { class: 'filters', role: 'group', 'aria-label': 'Show jobs' });
  private readonly older = h('button', { type: 'button', hidden: true }, 'Show older jobs');
  private readonly notice = h('p', { class: 'notice', role: 'status', hidden: true });
  private readonly said = h('p', { class: 'hidden-text', role: 'status', 'aria-live': 'polite' });
  private readonly toJobs = h('a', { class: 'to-jobs', href: '#jobs-title' }, 'Jobs');
  private readonly who = h('span', { class: 'muted', hidden: true });
  private readonly signOut = h('button', { type: 'button', class: 'quiet', hidden: true }, 'Sign out');
  private readonly service = new Service(() => this.signIn());
  private readonly form = new JobForm(this.service, (request) => this.make(request));

  build(root: Element): void {
    this.signOut.addEventListener('click', async () => {
      await this.service.logout().catch(() => undefined);
      location.reload();
    });
    this.older.addEventListener('click', () => this.readOlder());
    for (const [name] of FILTERS) {
      const choose = () => {
        this.filter = name;
        this.show();
      };
      this.filters.append(h('button', { type: 'button', 'data-filter': name, onclick: choose }));
    }
    root.replaceChildren(
      h('a', { class: 'skip', href: '#jobs-title' }, 'Skip to the jobs'),
      h(
        'header',
        { class: 'top' },
        h('h1', {}, 'terrafuse ', h('span', { class: 'muted' }, 'maps')),
        h('div', { class: 'buttons' }, this.toJobs, this.who, this.signOut, themeButton()),
      ),
      h(
        'main',
        {},
        h('div', { class: 'side' }, this.form.element),
        h(
          'section',
          { class: 'main', 'aria-labelledby': 'jobs-title' },
          h('div', { class: 'head' }, h('h2', { id: 'jobs-title', tabindex: -1 }, 'Jobs'), this.filters),
          this.notice,
          this.list,
          this.older,
        ),
      ),
      this.said,
    );
    this.show();
  }

  async start(): Promise<void> {
    try {
      this.form.setModels(await this.service.models());
      const asker = await this.service.asker();
      this.form.setRights(asker);
      this.who.hidden = this.signOut.hidden = !asker.has_session;
      fill(this.who, asker.name);
    } catch (error) {
      this.say((error as Error).message);
    }
    await this.read();
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden) void this.read();
    });
    // "5 min ago" grows old.
    setInterval(() => this.show(), 30_000);
  }

  private signIn(): Promise<void> {
    return askForToken((token) => this.service.login(token));
  }

  private async make(request: JobRequest): Promise<void> {
    const job = await this.service.submit(request);
    this.store.put(job);
    this.filter = 'all';
    this.show();
    this.announce(`${titleOf(job)} was handed in`);
    this.rows.get(job.id)?.element.scrollIntoView({ block: 'nearest' });
    this.schedule();
  }

  /** Read the newest jobs; soon again where jobs are under way. */
  private async read(): Promise<void> {
    const asked = this.store.moment();
    try {
      const answer = await this.service.jobs();
      const before = new Map(this.store.all().map((job) => [job.id, job]));
      this.store.merge(answer.jobs, asked, answer.next === null);
      if (this.cursor === null || answer.next === null) this.cursor = answer.next;
      for (const job of this.store.all()) this.announceEnd(before.get(job.id), job);
      this.say('');
    } catch (error) {
      this.say(`${(error as Error).message} Trying again.`);
    }
    this.show();
    this.schedule();
  }

  private async readOlder(): Promise<void> {
    if (!this.cursor) return;
    const answer = await this.service.jobs(this.cursor).catch((error: Error) => this.say(error.message));
    if (!answer) return;
    this.store.append(answer.jobs);
    this.cursor = answer.next;
    this.show();
    const first = answer.jobs[0];
    if (first) this.rows.get(first.id)?.element.focus();
  }

  private schedule(): void {
    clearTimeout(this.timer);
    const isBusy = this.store.counts().active > 0;
    const seconds = isBusy && !document.hidden ? BUSY_SECONDS : IDLE_SECONDS;
    this.timer = window.setTimeout(() => this.read(), 1000 * seconds);
  }

  private show(): void {
    const now = Date.now();
    const counts = this.store.counts();
    const jobs = this.store.all(this.filter);
    const elements = jobs.map((job) => {
      const row = this.rows.get(job.id) ?? new JobRow(job, this.actions);
      this.rows.set(job.id, row);
      row.show(job, now);
      return row.element;
    });
    for (const id of this.rows.keys()) if (!this.store.get(id)) this.rows.delete(id);
    if (!elements.length) fill(this.list, h('p', { class: 'panel empty muted' }, this.emptyText()));
    else arrange(this.list, elements);
    for (const [name, text] of FILTERS) {
      const button = this.filters.querySelector(`[data-filter="${name}"]`);
      button?.setAttribute('aria-pressed', String(name === this.filter));
      if (button) fill(button, text, ' ', h('span', { class: 'muted number' }, counts[name]));
    }
    fill(this.toJobs, counts.active ? `Jobs (${counts.active})` : 'Jobs');
    this.older.hidden = this.cursor === null;
    document.title = counts.active ? `(${counts.active}) terrafuse maps` : 'terrafuse maps';
    this.connect();
  }

  private emptyText(): string {
    return this.filter === 'all'
      ? 'No maps yet. Choose rasters on the form, then make the map: it appears here.'
      : 'No job of this kind.';
  }

  /** Keep streams of the jobs that move. */
  private connect(): void {
    const wanted = new Set(this.store.followed(MOST_STREAMS));
    for (const [id, stream] of this.streams) {
      if (wanted.has(id)) continue;
      stream.close();
      this.streams.delete(id);
    }
    for (const id of wanted) {
      if (this.streams.has(id)) continue;
      const stream = follow(this.service.eventsOf(id), {
        change: (job) => {
          const before = this.store.get(id);
          this.store.put(job);
          this.announceEnd(before, job);
          this.show();
        },
        // It has ended, or somebody deleted it.
        over: () => void this.read(),
      });
      this.streams.set(id, stream);
    }
  }

  private announceEnd(before: Job | undefined, job: Job | undefined): void {
    if (!before || !job || before.state === job.state || !isEnded(job.state)) return;
    this.announce(`${titleOf(job)}: ${job.state}`);
  }

  private announce(text: string): void {
    fill(this.said, text);
  }

  private say(text: string): void {
    this.notice.hidden = !text;
    if (this.notice.textContent !== text) fill(this.notice, text);
  }

  /** Do something to a job, and show the refusal if there is one. */
  private async act(job: Job, action: () => Promise<Job | null>): Promise<void> {
    try {
      const answer = await action();
      this.store.put(answer ?? (await this.service.job(job.id)));
      this.say('');
    } catch (error) {
      this.say(`${titleOf(job)}: ${(error as Error).message}`);
    }
    this.show();
    this.schedule();
  }

  private async remove(job: Job): Promise<void> {
    const size = bytes(job.results.reduce((sum, each) => sum + each.bytes, 0));
    const files = job.results.length ? ` and its files (${size})` : '';
    const text = `"${titleOf(job)}"${files} will be gone for good.`;
    if (!(await confirmed('Delete this job?', text, 'Delete'))) return;
    try {
      await this.service.remove(job.id);
      this.store.remove(job.id);
      this.announce(`${titleOf(job)} was deleted`);
    } catch (error) {
      this.say(`${titleOf(job)}: ${(error as Error).message}`);
    }
    this.show();
    document.getElementById('jobs-title')?.focus();
  }

  private async copy(text: string, what: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      this.say(`Copied: ${what} ${text}`);
    } catch {
      // Pages without TLS on other hosts may not use the clipboard.
      this.say(`${what} ${text}`);
    }
  }

  private async copyTiles(job: Job): Promise<void> {
    if (!job.tilejson) return;
    try {
      const [tiles] = await this.service.tiles(job.tilejson);
      await this.copy(tiles ?? absolute(job.tilejson), 'XYZ address for QGIS:');
    } catch (error) {
      this.say(`${titleOf(job)}: ${(error as Error).message}`);
    }
  }

  private readonly actions: Actions = {
    cancel: (job) => void this.act(job, () => this.service.act(job.id, 'cancel')),
    resume: (job) => void this.act(job, () => this.service.act(job.id, 'resume')),
    remove: (job) => void this.remove(job),
    again: (job) => this.form.setRequest(job.request, job.model),
    log: (job) => showLog(titleOf(job), () => this.service.log(job.id)),
    copyTiles: (job) => void this.copyTiles(job),
    copyFile: (job, name) => void this.copy(absolute(this.service.resultOf(job.id, name)), 'Address:'),
    result: (job, name) => this.service.resultOf(job.id, name),
  };
}

/** Put children in order, moving only those that are not in their place. */
function arrange(parent: Element, children: Element[]): void {
  children.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
  while (parent.children.length > children.length) parent.lastElementChild?.remove();
}

const root = document.querySelector('#page');
if (root) {
  const page = new Page();
  page.build(root);
  void page.start();
}
