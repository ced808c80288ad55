/** The service's addresses, relative to the page. */
import type { Asker, FolderListing, Job, JobList, JobRequest, Upload } from '../shared/contract';
import type { ModelCard } from './card';

/** What the service refused, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Says who reads, once the service has asked: resolves when a token was accepted. */
type SignIn = () => Promise<void>;

export class Service {
  private signing: Promise<void> | null = null;

  constructor(
    private readonly signIn: SignIn,
    private readonly root = '',
    readonly base = `${root}api/`,
  ) {}

  models(): Promise<ModelCard[]> {
    return this.call('models') as Promise<ModelCard[]>;
  }

  asker(): Promise<Asker> {
    return this.call('me') as Promise<Asker>;
  }

  files(path: string): Promise<FolderListing> {
    return this.call(`files?path=${encodeURIComponent(path)}`) as Promise<FolderListing>;
  }

  jobs(cursor: string | null = null): Promise<JobList> {
    const query = cursor ? `?cursor=${encodeURIComponent(cursor)}` : '';
    return this.call(`jobs${query}`) as Promise<JobList>;
  }

  job(id: string): Promise<Job> {
    return this.call(this.path(id)) as Promise<Job>;
  }

  submit(request: JobRequest): Promise<Job> {
    return this.call('jobs', 'POST', request) as Promise<Job>;
  }

  act(id: string, action: 'cancel' | 'resume'): Promise<Job | null> {
    return this.call(`${this.path(id)}/${action}`, 'POST') as Promise<Job | null>;
  }

  async remove(id: string): Promise<void> {
    await this.call(this.path(id), 'DELETE');
  }

  async log(id: string): Promise<string> {
    return (await this.send(`${this.path(id)}/log`)).text();
  }

  /** The addresses of tiles that a job's TileJSON names. */
  async tiles(tilejson: string): Promise<string[]> {
    const response = await fetch(tilejson, { credentials: 'same-origin' });
    if (!response.ok) throw new Refused(response.status, await reason(response));
    const { tiles } = (await response.json()) as { tiles?: string[] };
    return (tiles ?? []).map((each) => absolute(each));
  }

  /** Begin a session: the service answers with a cookie that scripts cannot read. */
  async login(token: string): Promise<void> {
    const init: RequestInit = { method: 'POST', body: new URLSearchParams({ token }) };
    // Its answer to a valid token leads to a page, which is not fetched.
    const response = await this.fetch(`${this.root}login`, { ...init, redirect: 'manual' });
    if (response.type === 'opaqueredirect' || response.ok) return;
    throw new Refused(
      response.status,
      response.status === 401 ? 'This is no token of this service.' : await reason(response),
    );
  }

  async logout(): Promise<void> {
    await this.fetch(`${this.root}logout`, { method: 'POST', redirect: 'manual' });
  }

  eventsOf(id: string): string {
    return `${this.base}${this.path(id)}/events`;
  }

  resultOf(id: string, name: string): string {
    return `${this.base}${this.path(id)}/results/${encodeURIComponent(name)}`;
  }

  /** Send a file; `XMLHttpRequest` because `fetch` does not say how much has been sent. */
  async upload(file: File, progress: (sent: number) => void, signal: AbortSignal): Promise<Upload> {
    try {
      return await this.sendFile(file, progress, signal);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401) throw error;
      await this.signedIn();
      return this.sendFile(file, progress, signal);
    }
  }

  private sendFile(
    file: File,
    progress: (sent: number) => void,
    signal: AbortSignal,
  ): Promise<Upload> {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open('POST', `${this.base}uploads?name=${encodeURIComponent(file.name)}`);
      request.setRequestHeader('Content-Type', 'application/octet-stream');
      request.upload.onprogress = (event) => progress(event.loaded);
      request.onerror = () => reject(new Refused(0, 'The service cannot be reached.'));
      request.onabort = () => reject(new DOMException('', 'AbortError'));
      request.onload = () => {
        if (request.status < 300) resolve(JSON.parse(request.responseText) as Upload);
        else reject(new Refused(request.status, words(request.responseText, request.status)));
      };
      signal.addEventListener('abort', () => request.abort());
      if (signal.aborted) reject(new DOMException('', 'AbortError'));
      else request.send(file);
    });
  }

  private path(id: string): string {
    return `jobs/${encodeURIComponent(id)}`;
  }

  private async call(path: string, method = 'GET', body?: unknown): Promise<unknown> {
    const response = await this.send(path, method, body);
    const text = await response.text();
    return text ? JSON.parse(text) : null;
  }

  private async send(path: string, method = 'GET', body?: unknown): Promise<Response> {
    const init: RequestInit = { method };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers = { 'Content-Type': 'application/json' };
    }
    const response = await this.fetch(this.base + path, init);
    if (response.status === 401) {
      await this.signedIn();
      return this.send(path, method, body);
    }
    if (!response.ok) throw new Refused(response.status, await reason(response));
    return response;
  }

  private async fetch(address: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(address, { credentials: 'same-origin', cache: 'no-store', ...init });
    } catch {
      throw new Refused(0, 'The service cannot be reached.');
    }
  }

  /** Ask for a token, once for all requests that wait for it. */
  private signedIn(): Promise<void> {
    this.signing ??= this.signIn().finally(() => {
      this.signing = null;
    });
    return this.signing;
  }
}

/** A whole address, as other programs need it. Braces of tile addresses stay braces. */
export function absolute(address: string): string {
  return new URL(address, location.href).href.replace(/%7B/gi, '{').replace(/%7D/gi, '}');
}

async function reason(response: Response): Promise<string> {
  return words(await response.text(), response.status);
}

function words(text: string, status: number): string {
  try {
    const { error } = JSON.parse(text) as { error?: unknown };
    if (typeof error === 'string' && error) return error;
  } catch {
    // Not the service's own answer, but that of something in between.
  }
  return `The service answered with status ${status}.`;
}
