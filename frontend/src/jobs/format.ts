/** Figures as people read them. */
import type { Job } from '../shared/contract';

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** 1536 → "1.5 kB": thousands, as file managers and disks count. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit > 0 && value < 9.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** 3725 → "1 h 2 min". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return minutes < 10 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** "just now", "5 min ago", else the date and time of the reader's place. */
export function when(iso: string, now: number): string {
  const seconds = (now - Date.parse(iso)) / 1000;
  if (seconds < 60) return 'just now';
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(iso).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

/** Share of the work that is done, 0 to 1; null: not known yet. */
export function share(job: Pick<Job, 'done' | 'total' | 'state'>): number | null {
  if (job.state === 'done') return 1;
  if (job.total === null) return null;
  return job.total === 0 ? 0 : Math.min(1, job.done / job.total);
}

/** What has been done, in words: "12 of 48 units, 25 %". */
export function progress(job: Pick<Job, 'done' | 'total' | 'state'>): string {
  const part = share(job);
  if (part === null || job.total === null) return job.state === 'running' ? 'starting' : '';
  if (job.state === 'running' && job.done >= job.total) return 'writing the files';
  const units = job.total === 1 ? 'unit' : 'units';
  return `${job.done} of ${job.total} ${units}, ${Math.floor(part * 100)} %`;
}

/** A share as a percentage with one digit: 0.5598 → "56.0 %". */
export function percent(value: number): string {
  return `${(value * 100).toFixed(1)} %`;
}
