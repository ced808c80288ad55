/** Elements by hand: `h('button', { class: 'quiet', onclick: go }, 'Go')`. */

type Child = Node | string | number | null | undefined | false;
type Attributes = Record<string, unknown>;

/** An element; `on…` become listeners, `true` an empty attribute, false and null none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Child | Child[])[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on') && typeof value === 'function') {
      element.addEventListener(name.slice(2), value as EventListener);
    } else if (name === 'style' && typeof value === 'object') {
      // By property and not as an attribute: a content security policy forbids the latter.
      for (const [key, each] of Object.entries(value as Record<string, string>)) {
        element.style.setProperty(key, each);
      }
    } else if (name === 'value' && 'value' in element) {
      (element as { value: unknown }).value = value;
    } else {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  append(element, children);
  return element;
}

/** Put other children into an element. */
export function fill(element: Element, ...children: (Child | Child[])[]): void {
  element.replaceChildren();
  append(element, children);
}

function append(element: Element, children: (Child | Child[])[]): void {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(typeof child === 'number' ? String(child) : child);
  }
}
