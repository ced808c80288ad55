/** Dialogs: signing in, asking before deleting, logs, and the service's rasters. */
import { fill, h } from '../shared/html';
import { bytes } from './format';
import type { FolderListing } from '../shared/contract';
import type { Service } from './service';
import type { Source } from './draft';

/** A modal dialog with a title; resolves when it is closed. */
function modal(title: string, content: Node[], className = ''): HTMLDialogElement {
  const id = `title-${Math.random().toString(36).slice(2)}`;
  const close = h('button', { type: 'button', class: 'quiet close', 'aria-label': 'Close' }, '×');
  const dialog = h(
    'dialog',
    { class: `dialog ${className}`, 'aria-labelledby': id },
    h('header', {}, h('h2', { id }, title), close),
    ...content,
  );
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask for a token until the service accepts one. It is never kept by the page. */
export function askForToken(login: (token: string) => Promise<void>): Promise<void> {
  return new Promise((resolve) => {
    const field = h('input', {
      type: 'password',
      id: 'token',
      autocomplete: 'current-password',
      required: true,
      'aria-describedby': 'token-help token-error',
    });
    const error = h('p', { class: 'error', id: 'token-error', role: 'alert' });
    const send = h('button', { class: 'primary', type: 'submit' }, 'Sign in');
    const form = h(
      'form',
      { class: 'stack' },
      h('label', { for: 'token' }, 'Token'),
      field,
      h(
        'p',
        { class: 'muted', id: 'token-help' },
        'Whoever runs the service gave it to you. This page does not keep it; the service remembers ' +
          'this browser until you sign out.',
      ),
      error,
      h('div', { class: 'actions' }, send),
    );
    const dialog = modal('Sign in', [form], 'sign-in');
    // There is nothing to see without a token, and so nothing to go back to.
    dialog.querySelector('.close')?.remove();
    dialog.addEventListener('cancel', (event) => event.preventDefault());
    let isSigned = false;
    dialog.addEventListener('close', () => {
      if (!isSigned) {
        document.body.append(dialog);
        dialog.showModal();
      }
    });
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      send.disabled = true;
      fill(error);
      try {
        await login(field.value.trim());
        isSigned = true;
        dialog.close();
        resolve();
      } catch (refusal) {
        fill(error, (refusal as Error).message);
        field.select();
      } finally {
        send.disabled = false;
      }
    });
    field.focus();
  });
}

/** Ask before something that cannot be undone. */
export function confirmed(title: string, text: string, verb: string): Promise<boolean> {
  return new Promise((resolve) => {
    let answer = false;
    const no = h('button', { type: 'button' }, 'Keep it');
    const yes = h('button', { type: 'button', class: 'danger' }, verb);
    const dialog = modal(title, [h('p', {}, text), h('div', { class: 'actions' }, no, yes)]);
    no.addEventListener('click', () => dialog.close());
    yes.addEventListener('click', () => {
      answer = true;
      dialog.close();
    });
    dialog.addEventListener('close', () => resolve(answer));
    no.focus();
  });
}

/** A job's log, read again on demand. */
export function showLog(title: string, read: () => Promise<string>): void {
  const text = h('pre', { tabindex: 0, 'aria-label': 'Log' }, 'Reading …');
  const again = h('button', { type: 'button' }, 'Read again');
  const refresh = async () => {
    try {
      fill(text, (await read()) || 'Nothing has been written yet.');
    } catch (error) {
      fill(text, (error as Error).message);
    }
    text.scrollTop = text.scrollHeight;
  };
  again.addEventListener('click', refresh);
  modal(`Log of ${title}`, [text, h('div', { class: 'actions' }, again)], 'wide log');
  text.focus();
  void refresh();
}

/**
 * Choose rasters in the folders that the service reads; [] if none.
 *
 * Keys: arrows go through the list, Enter opens a folder or marks a raster, Backspace goes up.
 */
export function chooseRasters(modality: string, service: Service, start: string): Promise<Chosen> {
  return new Promise((resolve) => {
    const marked = new Map<string, Source>();
    let listing: FolderListing = { path: start, folders: [], rasters: [], left_out: 0 };
    let answer: Source[] = [];

    const trail = h('nav', { class: 'trail', 'aria-label': 'Folder' });
    const list = h('ul', { class: 'files', 'aria-label': 'Folders and rasters' });
    const note = h('p', { class: 'muted note', role: 'status' });
    const typed = h('input', {
      type: 'text',
      id: 'typed-path',
      autocomplete: 'off',
      spellcheck: 'false',
      placeholder: 'folder/raster.tif or https://…',
    });
    const use = h('button', { type: 'submit', class: 'primary' }, 'Use');
    const form = h(
      'form',
      { class: 'stack' },
      trail,
      list,
      note,
      h('label', { for: 'typed-path' }, 'Or a path, or an address where the service allows it'),
      typed,
      h('div', { class: 'actions' }, use),
    );
    const dialog = modal(`Rasters of ${modality}`, [form], 'wide');

    const name = () => {
      const count = marked.size + (typed.value.trim() ? 1 : 0);
      use.disabled = count === 0;
      fill(use, count > 1 ? `Use ${count} rasters` : 'Use this raster');
    };
    const show = () => {
      const parts = listing.path.split('/').filter(Boolean);
      const crumb = (label: string, path: string, isLast: boolean) =>
        isLast
          ? h('span', { 'aria-current': 'true' }, label)
          : h('button', { type: 'button', class: 'quiet', onclick: () => open(path) }, label);
      fill(
        trail,
        crumb('All folders', '', parts.length === 0),
        parts.flatMap((part, i) => [
          h('span', { 'aria-hidden': 'true' }, '/'),
          crumb(part, parts.slice(0, i + 1).join('/'), i === parts.length - 1),
        ]),
      );
      fill(
        list,
        listing.folders.map((each) =>
          h(
            'li',
            {},
            h(
              'button',
              { type: 'button', class: 'file folder', onclick: () => open(each.path) },
              h('span', { class: 'name' }, `${each.name}/`),
            ),
          ),
        ),
        listing.rasters.map((each) => {
          const button = h(
            'button',
            { type: 'button', class: 'file', 'aria-pressed': marked.has(each.path) },
            h('span', { class: 'name' }, each.name),
            h('span', { class: 'muted number' }, bytes(each.bytes)),
          );
          button.setAttribute('aria-pressed', String(marked.has(each.path)));
          button.addEventListener('click', () => {
            if (!marked.delete(each.path)) {
              marked.set(each.path, { value: each.path, label: each.path, bytes: each.bytes });
            }
            button.setAttribute('aria-pressed', String(marked.has(each.path)));
            name();
          });
          return h('li', {}, button);
        }),
      );
      if (!listing.folders.length && !listing.rasters.length) {
        fill(note, listing.path ? 'No rasters here.' : 'The service reads no folders: upload instead.');
      } else {
        fill(note, listing.left_out ? `${listing.left_out} more are not listed: type the path.` : '');
      }
      name();
    };
    const open = async (path: string) => {
      fill(note, 'Reading …');
      try {
        listing = await service.files(path);
        show();
        list.querySelector('button')?.focus();
      } catch (error) {
        // The folder of last time may be gone.
        if (path && path === start && !listing.folders.length) await open('');
        else fill(note, (error as Error).message);
      }
    };
    form.addEventListener('keydown', (event) => {
      const buttons = [...list.querySelectorAll('button')];
      const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
      if (at < 0) return;
      if (event.key === 'ArrowDown') buttons[Math.min(at + 1, buttons.length - 1)]?.focus();
      else if (event.key === 'ArrowUp') buttons[Math.max(at - 1, 0)]?.focus();
      else if (event.key === 'Home') buttons[0]?.focus();
      else if (event.key === 'End') buttons.at(-1)?.focus();
      else if (event.key === 'Backspace') void open(listing.path.split('/').slice(0, -1).join('/'));
      else return;
      event.preventDefault();
    });
    typed.addEventListener('input', name);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const path = typed.value.trim();
      answer = [...marked.values()];
      if (path) answer.push({ value: path, label: path, bytes: null });
      dialog.close();
    });
    dialog.addEventListener('close', () => resolve({ sources: answer, folder: listing.path }));
    void open(start);
  });
}

export interface Chosen {
  sources: Source[];
  /** Where the reader was, to begin there next time. */
  folder: string;
}
