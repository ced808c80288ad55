/** Documents and rasters, from a server or, for a page opened from disk, from scripts beside them. */

declare global {
  interface Window {
    terrafuseData?: (address: string, content: unknown) => void;
  }
}

export const isFromDisk = location.protocol === 'file:';

/** An answer that is none: what a server said, or that there is none. */
export class ReadError extends Error {
  constructor(
    message: string,
    readonly status = 0,
  ) {
    super(message);
  }
}

/** A JSON document; from disk it is the script of the same name ("view.json" → "view.js"). */
export async function readDocument<T>(address: string): Promise<T> {
  if (isFromDisk) return (await readScript(address.replace(/\.json$/, '.js'))) as T;
  return (await request(address)).body as T;
}

/** An answer of the server, with its ETag; refusals become errors with the server's own message. */
export async function request(
  address: string,
  options: RequestInit = {},
): Promise<{ body: unknown; etag: string | null }> {
  let response: Response;
  try {
    response = await fetch(address, { cache: 'no-cache', ...options });
  } catch {
    throw new ReadError('The server does not answer. Is terrafuse still running?');
  }
  const text = await response.text();
  let body: unknown = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    if (response.ok) throw new ReadError(`${nameOf(address)} is not JSON.`, response.status);
  }
  if (!response.ok) {
    const said = (body as { error?: unknown } | null)?.error;
    const message = typeof said === 'string' ? said : `${nameOf(address)} cannot be read (${response.status}).`;
    throw new ReadError(message, response.status);
  }
  return { body, etag: response.headers.get('ETag') };
}

/** Bytes of a raster written as a script. */
export async function readEmbedded(address: string): Promise<ArrayBuffer> {
  const content = await readScript(address);
  if (typeof content !== 'string') throw new ReadError(`${nameOf(address)} holds no raster.`);
  const binary = atob(content);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

/** What a script hands to `terrafuseData`. A script knows itself by its address, not by its text. */
function readScript(address: string): Promise<unknown> {
  const script = document.createElement('script');
  let content: unknown;
  return new Promise((resolve, reject) => {
    window.terrafuseData = (_, given) => {
      const current = document.currentScript as (HTMLScriptElement & { content?: unknown }) | null;
      if (current) current.content = given;
    };
    script.onload = () => {
      content = (script as HTMLScriptElement & { content?: unknown }).content;
      script.remove();
      if (content === undefined) reject(new ReadError(`${nameOf(address)} holds no data.`));
      else resolve(content);
    };
    script.onerror = () => {
      script.remove();
      reject(new ReadError(`${nameOf(address)} is not beside the page or cannot be read.`));
    };
    script.src = address;
    document.head.append(script);
  });
}

function nameOf(address: string): string {
  return address.split('?')[0]!.split('/').slice(-2).join('/');
}
