import '../shared/look.css';
import './viewer.css';
import { App } from './app';
import { handleKey } from './keys';

try {
  const theme = localStorage.getItem('terrafuse-theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset['theme'] = theme;
} catch {
  // Without storage the system's choice holds.
}
const app = new App(document.querySelector<HTMLElement>('#page')!);
document.addEventListener('keydown', (event) => handleKey(app, event));
void app.start();
