/** The jobs that the page knows. */
import { ENDED, type Job, type JobState } from '../shared/contract';

export type Filter = 'all' | 'active' | 'done' | 'failed';

export function isEnded(state: JobState): boolean {
  return ENDED.includes(state);
}

/**
 * Jobs by id, newest first.
 *
 * A list that was asked for before an event arrived is older than the event although it comes
 * later. `moment()` is taken when a list is asked for; what changed since then stays.
 */
export class JobStore {
  private readonly jobs = new Map<string, Job>();
  private readonly changed = new Map<string, number>();
  private readonly removed = new Map<string, number>();
  private clock = 0;

  moment(): number {
    return this.clock;
  }

  get(id: string): Job | undefined {
    return this.jobs.get(id);
  }

  /** A job as an event or the answer to an action has it. */
  put(job: Job): void {
    this.jobs.set(job.id, job);
    this.changed.set(job.id, ++this.clock);
    this.removed.delete(job.id);
  }

  remove(id: string): void {
    this.jobs.delete(id);
    this.removed.set(id, ++this.clock);
  }

  /**
   * The newest jobs as a list has them that was asked for at `asked`.
   *
   * `isAll` says that there are no older ones, so that jobs that are missing are gone; otherwise
   * only missing ones between the newest and the oldest of the list are.
   */
  merge(list: readonly Job[], asked: number, isAll: boolean): void {
    const listed = new Set(list.map((job) => job.id));
    const oldest = list.at(-1)?.created;
    for (const job of list) {
      if ((this.changed.get(job.id) ?? 0) > asked || (this.removed.get(job.id) ?? 0) > asked) continue;
      this.jobs.set(job.id, job);
    }
    for (const [id, job] of this.jobs) {
      const isCovered = isAll || (oldest !== undefined && isLater(job.created, oldest));
      if (!listed.has(id) && isCovered && (this.changed.get(id) ?? 0) <= asked) this.jobs.delete(id);
    }
  }

  /** Older jobs, which do not say anything of those that are known. */
  append(list: readonly Job[]): void {
    for (const job of list) if (!this.jobs.has(job.id)) this.jobs.set(job.id, job);
  }

  clear(): void {
    this.jobs.clear();
    this.changed.clear();
    this.removed.clear();
  }

  all(filter: Filter = 'all'): Job[] {
    const order = (a: Job, b: Job) =>
      Date.parse(b.created) - Date.parse(a.created) || (a.id < b.id ? 1 : -1);
    return [...this.jobs.values()].filter((job) => passes(job.state, filter)).sort(order);
  }

  counts(): Record<Filter, number> {
    return {
      all: this.jobs.size,
      active: this.all('active').length,
      done: this.all('done').length,
      failed: this.all('failed').length,
    };
  }

  /**
   * The jobs whose events are worth a connection: running ones, then the longest waiting ones.
   * Browsers keep six connections per host; the others are seen by asking for the list.
   */
  followed(most: number): string[] {
    const rank = (job: Job) => (job.state === 'queued' ? 1 : 0);
    return this.all('active')
      .reverse()
      .sort((a, b) => rank(a) - rank(b))
      .slice(0, most)
      .map((job) => job.id);
  }
}

function passes(state: JobState, filter: Filter): boolean {
  if (filter === 'all') return true;
  if (filter === 'active') return !isEnded(state);
  if (filter === 'done') return state === 'done';
  return state === 'failed' || state === 'cancelled';
}

function isLater(a: string, b: string): boolean {
  return Date.parse(a) > Date.parse(b);
}
