/** A job's server-sent events. */
import type { Job } from '../shared/contract';

/** Part of `EventSource` that is used, so that tests can play one. */
export interface Source {
  readonly readyState: number;
  addEventListener(type: string, listener: (event: Event) => void): void;
  close(): void;
}

export interface Listener {
  change(job: Job): void;
  /** The stream is over: the job has ended, or it is gone. */
  over(): void;
}

/** Messages hold the job; `end` says that there will be no more. */
const NAMES = ['message', 'end'];
const CLOSED = 2;
const FIRST_WAIT = 1000;
const LONGEST_WAIT = 30000;

export interface Clock {
  setTimeout(call: () => void, milliseconds: number): number;
  clearTimeout(id: number): void;
}

/**
 * Follow a job until it ends or `close` is called.
 *
 * The browser connects again by itself, with the last event's id, when a connection breaks. It gives
 * up when the answer is an error: then this tries again, 1, 2, 4 … 30 seconds later.
 */
export function follow(
  url: string,
  listener: Listener,
  open: (url: string) => Source = (each) => new EventSource(each),
  clock: Clock = window,
): { close(): void } {
  let source: Source;
  let timer = 0;
  let wait = FIRST_WAIT;
  let isClosed = false;

  const close = () => {
    isClosed = true;
    clock.clearTimeout(timer);
    source.close();
  };
  const receive = (event: Event) => {
    if (isClosed) return;
    wait = FIRST_WAIT;
    const part = event.type === 'end' ? null : parsed((event as MessageEvent).data);
    if (part) listener.change(part);
    if (event.type === 'end') {
      close();
      listener.over();
    }
  };
  const connect = () => {
    source = open(url);
    for (const name of NAMES) source.addEventListener(name, receive);
    source.addEventListener('error', () => {
      if (isClosed || source.readyState !== CLOSED) return;
      timer = clock.setTimeout(connect, wait);
      wait = Math.min(2 * wait, LONGEST_WAIT);
    });
  };
  connect();
  return { close };
}

function parsed(data: unknown): Job | null {
  if (typeof data !== 'string' || !data) return null;
  try {
    const value = JSON.parse(data) as unknown;
    return value && typeof value === 'object' ? (value as Job) : null;
  } catch {
    return null;
  }
}
