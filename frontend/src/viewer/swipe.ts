/** The bar between two layers. */
import { h } from '../shared/html';

/** A bar that is dragged, or moved with arrow keys. */
export class SwipeBar {
  private readonly bar: HTMLElement;

  constructor(
    private readonly stage: HTMLElement,
    private readonly onmove: (at: number) => void,
  ) {
    this.bar = h(
      'div',
      {
        class: 'swipe',
        role: 'slider',
        tabindex: '0',
        hidden: true,
        'aria-label': 'Swipe between left and right layer',
        'aria-orientation': 'horizontal',
        'aria-valuemin': '0',
        'aria-valuemax': '100',
      },
      h('span', { class: 'grip', 'aria-hidden': 'true' }, '◂ ▸'),
    );
    stage.append(this.bar);
    this.bar.addEventListener('pointerdown', (event) => {
      this.bar.setPointerCapture(event.pointerId);
      event.preventDefault();
      this.bar.focus();
    });
    this.bar.addEventListener('pointermove', (event) => {
      if (!this.bar.hasPointerCapture(event.pointerId)) return;
      const box = this.stage.getBoundingClientRect();
      this.move((event.clientX - box.left) / box.width);
    });
    this.bar.addEventListener('keydown', (event) => {
      const step = event.shiftKey ? 0.1 : 0.02;
      const now = Number(this.bar.getAttribute('aria-valuenow')) / 100;
      const to = { ArrowLeft: now - step, ArrowRight: now + step, Home: 0, End: 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(to);
    });
  }

  show(isShown: boolean, at: number): void {
    this.bar.hidden = !isShown;
    this.place(at);
  }

  private move(to: number): void {
    const at = Math.min(1, Math.max(0, to));
    this.place(at);
    this.onmove(at);
  }

  private place(at: number): void {
    this.bar.style.left = `${at * 100}%`;
    this.bar.setAttribute('aria-valuenow', String(Math.round(at * 1000) / 10));
  }
}
