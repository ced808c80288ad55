import '../shared/look.css';
import './viewer.css';
import { applyKeptTheme } from '../shared/theme';
import { App } from './app';
import { handleKey } from './keys';
import { showPage } from './page';

applyKeptTheme();
const app = new App(document.querySelector<HTMLElement>('#page')!, showPage);
document.addEventListener('keydown', (event) => handleKey(app, event));
void app.start();
