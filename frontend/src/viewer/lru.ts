/** What was used last, up to a number of bytes. */
export class ByteLru<V> {
  private readonly kept = new Map<string, { value: V; bytes: number }>();
  private total = 0;

  constructor(readonly most: number) {}

  get bytes(): number {
    return this.total;
  }

  get(key: string): V | undefined {
    const entry = this.kept.get(key);
    if (!entry) return undefined;
    this.kept.delete(key);
    this.kept.set(key, entry);
    return entry.value;
  }

  /** Keep a value; the longest unused ones go. One that is larger than all is kept alone. */
  set(key: string, value: V, bytes: number): void {
    this.delete(key);
    this.kept.set(key, { value, bytes });
    this.total += bytes;
    for (const oldest of this.kept.keys()) {
      if (this.total <= this.most || oldest === key) break;
      this.delete(oldest);
    }
  }

  delete(key: string): void {
    const entry = this.kept.get(key);
    if (!entry) return;
    this.kept.delete(key);
    this.total -= entry.bytes;
  }
}
