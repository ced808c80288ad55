/** Classes given to the points of a reference sample, saved one by one. */
import type { Sampling } from '../shared/contract';
import { ReadError, request } from './data';

export class SampleStore {
  readonly labels = new Map<number, string | null>();
  state: 'loading' | 'saved' | 'saving' | 'failed' | 'unreadable' = 'loading';
  message = '';
  private readonly pending = new Map<number, string | null>();
  private isSending = false;

  constructor(
    readonly sampling: Sampling,
    private readonly address: string,
    private readonly onchange: () => void,
    private readonly send: typeof request = request,
  ) {}

  get done(): number {
    return this.sampling.ids.filter((id) => this.labels.get(id)).length;
  }

  get isSaved(): boolean {
    return this.pending.size === 0 && !this.isSending;
  }

  async load(): Promise<void> {
    this.become('loading');
    try {
      const { body } = await this.send(this.address);
      const labels = (body as { labels?: Record<string, string | null> } | null)?.labels;
      if (!labels) throw new ReadError('The labels of the sample cannot be read: none in the answer.');
      for (const [id, name] of Object.entries(labels)) this.labels.set(Number(id), name);
      this.become('saved');
    } catch (error) {
      this.become('unreadable', (error as Error).message);
    }
  }

  /** Give the point at a place of the list a class; null takes it away. */
  set(position: number, name: string | null): void {
    const id = this.sampling.ids[position];
    if (id === undefined || this.state === 'loading' || this.state === 'unreadable') return;
    this.labels.set(id, name);
    this.pending.set(id, name);
    void this.save();
  }

  /** Place of the next point without a class, from one on; null where all have one. */
  nextOpen(from: number): number | null {
    const { ids } = this.sampling;
    for (let step = 1; step <= ids.length; step++) {
      const position = (from + step) % ids.length;
      if (!this.labels.get(ids[position]!)) return position;
    }
    return null;
  }

  /** Send what is not saved yet. */
  async save(): Promise<void> {
    if (this.isSending || this.pending.size === 0) return;
    const sent = new Map(this.pending);
    this.isSending = true;
    this.become('saving');
    try {
      await this.send(this.address, {
        method: 'PUT',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ labels: Object.fromEntries(sent) }),
      });
      for (const [id, name] of sent) if (this.pending.get(id) === name) this.pending.delete(id);
      this.isSending = false;
      if (this.pending.size) await this.save();
      else this.become('saved');
    } catch (error) {
      this.isSending = false;
      this.become('failed', (error as Error).message);
    }
  }

  private become(state: SampleStore['state'], message = ''): void {
    this.state = state;
    this.message = message;
    this.onchange();
  }
}
