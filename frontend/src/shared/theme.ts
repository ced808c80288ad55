/** Light or dark: as the system says, until the reader chooses. */
import { h } from './html';

const KEY = 'terrafuse-theme';

export type Theme = 'light' | 'dark';

/** What is seen now. */
export function theme(): Theme {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === 'light' || chosen === 'dark') return chosen;
  return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

/** A button that changes it; the choice is kept by the browser where it may be. */
export function themeButton(): HTMLButtonElement {
  const kept = read();
  if (kept) document.documentElement.dataset.theme = kept;
  const button = h('button', { type: 'button', class: 'quiet' });
  const show = () => {
    button.textContent = theme() === 'dark' ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Change to ${theme() === 'dark' ? 'light' : 'dark'} colours`);
  };
  button.addEventListener('click', () => {
    const next = theme() === 'dark' ? 'light' : 'dark';
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // Not allowed here: the choice holds until the page is left.
    }
    show();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', show);
  show();
  return button;
}

function read(): Theme | null {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === 'light' || kept === 'dark' ? kept : null;
  } catch {
    return null;
  }
}
