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

/** Show the colours that the reader chose before. */
export function applyKeptTheme(): void {
  const kept = read();
  if (kept) document.documentElement.dataset.theme = kept;
}

/** Change to the other colours; the choice is kept by the browser where it may be. */
export function toggleTheme(): void {
  const next = theme() === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Not allowed here: the choice holds until the page is left.
  }
}

/** A button that changes them. */
export function themeButton(): HTMLButtonElement {
  applyKeptTheme();
  const button = h('button', { type: 'button', class: 'quiet' });
  const show = () => {
    button.textContent = theme() === 'dark' ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Change to ${theme() === 'dark' ? 'light' : 'dark'} colours`);
  };
  button.addEventListener('click', () => {
    toggleTheme();
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
