import '../shared/look.css';
import { h } from '../shared/html';

document.querySelector('#page')?.append(h('p', {}, 'terrafuse view'));
