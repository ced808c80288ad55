/** The form: model, rasters, products. */
import { fill, h } from '../shared/html';
import type { Asker, JobRequest } from '../shared/contract';
import { PRODUCTS, type ModelCard, type ModelModality } from './card';
import { chooseRasters } from './dialogs';
import {
  addSources,
  emptyDraft,
  fromRequest,
  OUTPUTS,
  problems,
  removeSource,
  toggled,
  toRequest,
  TTA,
  type Draft,
  type Output,
} from './draft';
import { bytes, percent } from './format';
import type { Service } from './service';

const PRODUCT_NOTES: Record<string, string> = {
  class_map: 'the class of each pixel',
  confidence: 'probability of that class',
  entropy: 'how undecided the model is',
  margin: 'lead over the second class',
  probabilities: 'all classes, a band each',
  disagreement: 'where overlapping windows differ',
};
const OUTPUT_NOTES: Record<Output, string> = {
  preview: 'a picture of the map',
  polygons: 'GeoPackage for GIS',
  areas: 'table of areas per class',
};
const TTA_NOTES: Record<string, string> = {
  flips: '4 passes',
  turns: '4 passes',
  scales: '3 sizes',
};
const SUBSETS_SHOWN = 6;

export class JobForm {
  readonly element: HTMLFormElement;
  private draft: Draft = emptyDraft(null);
  private folder = '';
  /** Uploads under way, which a submission waits for. */
  private readonly sending = new Map<string, AbortController>();
  private asked = false;
  private may: ReadonlySet<string> = new Set(['priority', 'upload']);

  private readonly model = h('select', { id: 'model', name: 'model' });
  private readonly card = h('details', { class: 'card' });
  private readonly inputs = h('div', { class: 'inputs' });
  private readonly item = h('input', {
    type: 'text',
    id: 'item',
    autocomplete: 'off',
    spellcheck: 'false',
    placeholder: 'https://…/item.json',
    maxlength: 2000,
    'aria-describedby': 'item-note problem-item',
  });
  private readonly itemNote = h('p', { class: 'muted note', id: 'item-note' });
  private readonly byItem = h(
    'div',
    { class: 'stack by-item', hidden: true },
    h('label', { for: 'item' }, 'Or a STAC item that names them'),
    this.item,
    this.itemNote,
    h('p', { class: 'error', id: 'problem-item', 'data-problem': 'item' }),
  );
  private readonly products = h('div', { class: 'choices' });
  private readonly outputs = h('div', { class: 'choices' });
  private readonly title = h('input', {
    type: 'text',
    id: 'title',
    maxlength: 200,
    autocomplete: 'off',
  });
  private readonly priority = h('input', {
    type: 'number',
    id: 'priority',
    min: -10,
    max: 10,
    step: 1,
    value: 0,
  });
  private readonly tta = h('div', { class: 'choices' });
  private readonly conversions = h('div', { class: 'stack' });
  private readonly cropSize = h('input', {
    type: 'number',
    id: 'crop-size',
    min: 1,
    max: 65536,
    step: 1,
    'aria-describedby': 'problem-windows',
  });
  private readonly overlap = h('input', {
    type: 'number',
    id: 'overlap',
    min: 0,
    max: 65536,
    step: 1,
    'aria-describedby': 'problem-windows',
  });
  private readonly trust = h('input', { type: 'checkbox', id: 'trust' });
  private readonly further = h(
    'details',
    { class: 'further' },
    h('summary', {}, 'More settings'),
    h('fieldset', {}, h('legend', {}, 'Average over views (slower)'), this.tta),
    h(
      'fieldset',
      {},
      h('legend', {}, 'Values of another scale than the training’s'),
      this.conversions,
      h('p', { class: 'muted note', id: 'convert-note' }, 'FACTOR, or FACTOR,OFFSET, or db, or linear'),
      h('label', { class: 'choice' }, this.trust, h('span', {}, 'map them as they are')),
    ),
    h(
      'fieldset',
      {},
      h('legend', {}, 'Windows, in pixels (left empty: the model’s)'),
      h('div', { class: 'labelled' }, h('label', { for: 'crop-size' }, 'side'), this.cropSize),
      h('div', { class: 'labelled' }, h('label', { for: 'overlap' }, 'overlap'), this.overlap),
      h('p', { class: 'error', id: 'problem-windows', 'data-problem': 'windows' }),
    ),
  );
  private readonly submit = h('button', { type: 'submit', class: 'primary large' }, 'Make the map');
  private readonly error = h('p', { class: 'error', role: 'alert' });

  constructor(
    private readonly service: Service,
    private readonly made: (request: JobRequest) => Promise<void>,
    private models: ModelCard[] = [],
  ) {
    this.model.addEventListener('change', () => this.change({ model: this.model.value }, true));
    this.title.addEventListener('input', () => this.change({ title: this.title.value }));
    this.priority.addEventListener('input', () => {
      this.change({ priority: Math.round(this.priority.valueAsNumber) || 0 });
    });
    this.item.addEventListener('input', () => this.change({ item: this.item.value }));
    this.cropSize.addEventListener('input', () => this.change({ cropSize: pixels(this.cropSize) }));
    this.overlap.addEventListener('input', () => this.change({ overlap: pixels(this.overlap) }));
    this.trust.addEventListener('change', () => this.change({ trustValues: this.trust.checked }));
    this.element = h(
      'form',
      { class: 'panel form stack', 'aria-labelledby': 'form-title', novalidate: true },
      h('h2', { id: 'form-title' }, 'New map'),
      h('label', { for: 'model' }, 'Model'),
      this.model,
      this.card,
      h('fieldset', {}, h('legend', {}, 'Rasters'), this.inputs, this.byItem),
      h('fieldset', {}, h('legend', {}, 'Maps'), this.products),
      h('fieldset', {}, h('legend', {}, 'Beside them'), this.outputs),
      h(
        'div',
        { class: 'pair' },
        h('div', { class: 'stack' }, h('label', { for: 'title' }, 'Title (optional)'), this.title),
        h('div', { class: 'stack' }, h('label', { for: 'priority' }, 'Priority'), this.priority),
      ),
      this.further,
      this.error,
      h('div', { class: 'actions end' }, this.submit),
    );
    this.element.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.send();
    });
  }

  /** Show what can be chosen. */
  setModels(models: ModelCard[]): void {
    this.models = models;
    fill(
      this.model,
      models.map((each) => h('option', { value: each.name }, each.name)),
    );
    this.model.disabled = models.length < 2;
    this.draft = { ...this.draft, model: models[0]?.name ?? null };
    this.show();
  }

  /** Leave out what the reader may not. */
  setRights({ may, url_hosts: hosts }: Asker): void {
    this.may = new Set(may);
    this.priority.max = this.may.has('priority') ? '10' : '0';
    this.byItem.hidden = hosts.length === 0;
    fill(this.itemNote, `of ${hosts.join(', ')}`);
    this.show();
  }

  /** Begin with another job's request. */
  setRequest(request: JobRequest, model: string): void {
    this.draft = fromRequest({ ...request, model });
    this.asked = false;
    this.show();
    this.element.scrollIntoView({ block: 'start' });
    this.title.focus();
  }

  private get chosen(): ModelCard | null {
    return this.models.find((each) => each.name === this.draft.model) ?? null;
  }

  private change(part: Partial<Draft>, isAll = false): void {
    this.draft = { ...this.draft, ...part };
    if (isAll) this.show();
    else this.showProblems();
  }

  private show(): void {
    const card = this.chosen;
    this.model.value = this.draft.model ?? '';
    this.title.value = this.draft.title;
    this.item.value = this.draft.item;
    this.cropSize.value = String(this.draft.cropSize ?? '');
    this.cropSize.placeholder = String(card?.crop_size ?? '');
    this.overlap.value = String(this.draft.overlap ?? '');
    this.overlap.placeholder = String(card?.overlap ?? '');
    this.priority.value = String(this.draft.priority);
    if (card) fill(this.card, ...describe(card));
    this.card.hidden = !card;
    fill(this.inputs, card?.modalities.map((each) => this.input(each)) ?? []);
    this.draft.products = PRODUCTS.filter((each) => this.draft.products.includes(each));
    fill(
      this.products,
      PRODUCTS.map((name) =>
        check(name, PRODUCT_NOTES[name], this.draft.products.includes(name), (isOn) =>
          this.change({ products: toggled(this.draft.products, name, isOn, PRODUCTS) }),
        ),
      ),
    );
    fill(
      this.outputs,
      OUTPUTS.map((name) =>
        check(name, OUTPUT_NOTES[name], this.draft.outputs.includes(name), (isOn) =>
          this.change({ outputs: toggled(this.draft.outputs, name, isOn, OUTPUTS) }),
        ),
      ),
    );
    fill(
      this.tta,
      TTA.map((name) =>
        check(name, TTA_NOTES[name], this.draft.tta.includes(name), (isOn) =>
          this.change({ tta: toggled(this.draft.tta, name, isOn, TTA) }),
        ),
      ),
    );
    fill(this.conversions, card?.modalities.map((each) => this.conversion(each.name)) ?? []);
    this.trust.checked = this.draft.trustValues;
    this.further.open ||= hasFurther(this.draft);
    this.showProblems();
  }

  /** How values of a modality are changed before the model sees them. */
  private conversion(name: string): HTMLElement {
    const field = h('input', {
      type: 'text',
      id: `convert-${name}`,
      value: this.draft.convert[name] ?? '',
      placeholder: 'as they are',
      'aria-describedby': 'convert-note',
      autocomplete: 'off',
    });
    field.addEventListener('input', () => {
      this.change({ convert: { ...this.draft.convert, [name]: field.value } });
    });
    return h('div', { class: 'labelled' }, h('label', { for: field.id }, name), field);
  }

  /** One modality: its rasters, two buttons, and a place to drop files on. */
  private input(modality: ModelModality): HTMLElement {
    const { name } = modality;
    const browse = h('button', { type: 'button' }, 'Choose …');
    const file = h('input', { type: 'file', multiple: true, hidden: true, tabindex: -1 });
    const upload = h('button', { type: 'button' }, 'Upload …');
    const chosen = h('ul', { class: 'chosen' });
    const problem = h('p', { class: 'error', id: `problem-${name}`, 'data-problem': `input:${name}` });
    const unit = modality.unit ? ` · ${modality.unit}` : '';
    const row = h(
      'div',
      {
        class: 'input',
        role: 'group',
        'aria-label': name,
        'aria-describedby': `problem-${name}`,
        'data-modality': name,
      },
      h(
        'div',
        { class: 'head' },
        h(
          'div',
          {},
          h('strong', {}, name),
          this.chosen?.supports_missing ? h('span', { class: 'tag' }, 'optional') : null,
          h('div', { class: 'muted' }, `${modality.bands.join(', ')}${unit}`),
        ),
        h('div', { class: 'buttons' }, browse, this.may.has('upload') ? upload : null, file),
      ),
      chosen,
      problem,
    );
    const list = () => this.showChosen(chosen, name);
    browse.setAttribute('aria-label', `Choose rasters of ${name} on the server`);
    upload.setAttribute('aria-label', `Upload rasters of ${name}`);
    browse.addEventListener('click', async () => {
      const { sources, folder } = await chooseRasters(name, this.service, this.folder);
      this.folder = folder;
      this.draft = addSources(this.draft, name, sources);
      list();
      this.showProblems();
    });
    upload.addEventListener('click', () => file.click());
    file.addEventListener('change', () => {
      this.upload(name, [...(file.files ?? [])], chosen);
      file.value = '';
    });
    for (const type of ['dragenter', 'dragover']) {
      row.addEventListener(type, (event) => {
        event.preventDefault();
        row.classList.add('over');
      });
    }
    row.addEventListener('dragleave', (event) => {
      if (!row.contains((event as DragEvent).relatedTarget as Node | null)) row.classList.remove('over');
    });
    row.addEventListener('drop', (event) => {
      event.preventDefault();
      row.classList.remove('over');
      this.upload(name, [...((event as DragEvent).dataTransfer?.files ?? [])], chosen);
    });
    list();
    return row;
  }

  private showChosen(list: HTMLElement, modality: string): void {
    const sources = this.draft.inputs[modality] ?? [];
    const waiting = [...list.querySelectorAll('.sending')];
    fill(
      list,
      sources.map((each) => {
        const remove = h('button', { type: 'button', class: 'quiet', 'aria-label': `Remove ${each.label}` }, '×');
        remove.addEventListener('click', () => {
          this.draft = removeSource(this.draft, modality, each.value);
          this.showChosen(list, modality);
          this.showProblems();
        });
        const size = each.bytes === null ? null : h('span', { class: 'muted number' }, bytes(each.bytes));
        return h('li', {}, h('span', { class: 'name', title: each.value }, each.label), size, remove);
      }),
      waiting,
    );
  }

  private upload(modality: string, files: File[], list: HTMLElement): void {
    for (const file of this.may.has('upload') ? files : []) {
      const bar = h('progress', { max: file.size || 1, value: 0, 'aria-label': `Sending ${file.name}` });
      const said = h('span', { class: 'muted number' }, '0 %');
      const stop = h('button', { type: 'button', class: 'quiet', 'aria-label': `Stop sending ${file.name}` }, '×');
      const row = h('li', { class: 'sending' }, h('span', { class: 'name' }, file.name), bar, said, stop);
      const key = `${modality}/${file.name}/${Math.random()}`;
      const control = new AbortController();
      this.sending.set(key, control);
      list.append(row);
      this.showProblems();
      stop.addEventListener('click', () => control.abort());
      const progress = (sent: number) => {
        bar.value = sent;
        fill(said, `${Math.floor((100 * sent) / (file.size || 1))} %`);
      };
      this.service
        .upload(file, progress, control.signal)
        .then((sent) => {
          const source = { value: `upload:${sent.id}`, label: sent.name, bytes: sent.bytes };
          this.draft = addSources(this.draft, modality, [source]);
          row.remove();
        })
        .catch((error: Error) => {
          if (error.name === 'AbortError') row.remove();
          else this.refuseUpload(row, file.name, error.message);
        })
        .finally(() => {
          this.sending.delete(key);
          this.showChosen(list, modality);
          this.showProblems();
        });
    }
  }

  private refuseUpload(row: HTMLElement, name: string, message: string): void {
    const close = h('button', { type: 'button', class: 'quiet', 'aria-label': `Forget ${name}` }, '×');
    close.addEventListener('click', () => row.remove());
    row.classList.add('refused');
    fill(row, h('span', { class: 'error', role: 'alert' }, `${name}: ${message}`), close);
  }

  /** Problems are shown once the reader has tried to send, and then as they are mended. */
  private showProblems(): void {
    const found = this.asked ? problems(this.draft, this.chosen) : [];
    for (const each of this.element.querySelectorAll<HTMLElement>('[data-problem]')) {
      const problem = found.find((one) => one.field === each.dataset.problem);
      fill(each, problem?.text ?? '');
    }
    const other = found.find((one) => one.field === 'products' || one.field === 'outputs');
    fill(this.error, other?.text ?? '');
    this.submit.disabled = this.sending.size > 0;
    fill(this.submit, this.sending.size ? 'Sending rasters …' : 'Make the map');
  }

  /** Lead to what keeps the draft from being sent. */
  private focusOn(field: string): void {
    if (field === 'item') this.item.focus();
    if (field === 'windows') {
      this.further.open = true;
      this.cropSize.focus();
    }
    const modality = field.replace('input:', '');
    const row = this.element.querySelector<HTMLElement>(`[data-modality="${CSS.escape(modality)}"]`);
    row?.querySelector('button')?.focus();
  }

  private async send(): Promise<void> {
    const card = this.chosen;
    this.asked = true;
    const found = problems(this.draft, card);
    this.showProblems();
    if (found.length || !card) {
      this.focusOn(found[0]?.field ?? '');
      return;
    }
    this.submit.disabled = true;
    try {
      await this.made(toRequest(this.draft, card));
      this.asked = false;
      this.draft = { ...this.draft, inputs: {}, item: '', title: '', convert: {}, trustValues: false };
      this.show();
    } catch (error) {
      fill(this.error, (error as Error).message);
    } finally {
      this.submit.disabled = this.sending.size > 0;
    }
  }
}

/** Whether anything is set that stands under "More settings". */
function hasFurther(draft: Draft): boolean {
  const isCut = draft.cropSize !== null || draft.overlap !== null;
  return isCut || draft.trustValues || draft.tta.length > 0 || Object.keys(draft.convert).length > 0;
}

/** What a field of pixels holds; null: nothing. */
function pixels(field: HTMLInputElement): number | null {
  // Of what is no number, browsers say that there is nothing.
  if (field.validity.badInput) return NaN;
  return field.value === '' ? null : field.valueAsNumber;
}

function check(
  name: string,
  note: string | undefined,
  isOn: boolean,
  change: (isOn: boolean) => void,
): HTMLElement {
  const box = h('input', { type: 'checkbox', name, checked: isOn });
  box.addEventListener('change', () => change(box.checked));
  const text = name.replaceAll('_', ' ');
  return h(
    'label',
    { class: 'choice' },
    box,
    h('span', {}, text, note ? h('span', { class: 'muted note' }, note) : null),
  );
}

/** What is inside a model's card. */
function describe(card: ModelCard): Node[] {
  const scores = Object.entries(card.scores).slice(0, SUBSETS_SHOWN);
  const names = [...new Set(scores.flatMap(([, each]) => Object.keys(each)))]
    .filter((name) => name in SCORES)
    .slice(0, 3);
  const nodes: (Node | null)[] = [
    h(
      'summary',
      {},
      h('span', {}, `${card.classes.length} classes from ${card.modalities.map((m) => m.name).join(', ')}`),
    ),
    h(
      'ul',
      { class: 'classes', 'aria-label': 'Classes' },
      card.classes.map((each) =>
        h('li', {}, h('span', { class: 'swatch', style: { background: each.color } }), each.name),
      ),
    ),
    names.length
      ? h(
          'table',
          {},
          h('caption', {}, 'Scores on its own test scenes, by modalities'),
          h(
            'thead',
            {},
            h('tr', {}, h('th', { scope: 'col' }, 'with'), names.map((n) => h('th', { scope: 'col' }, SCORES[n]))),
          ),
          h(
            'tbody',
            {},
            scores.map(([subset, values]) =>
              h(
                'tr',
                {},
                h('th', { scope: 'row' }, subset.replaceAll('+', ' + ')),
                names.map((name) =>
                  h('td', { class: 'number' }, typeof values[name] === 'number' ? percent(values[name]) : '–'),
                ),
              ),
            ),
          ),
        )
      : null,
    h('dl', {}, facts(card).flatMap(([term, text]) => [h('dt', {}, term), h('dd', {}, text)])),
  ];
  return nodes.filter((each): each is Node => each !== null);
}

const SCORES: Record<string, string> = { miou: 'mean IoU', oa: 'accuracy', mf1: 'mean F1' };

function facts(card: ModelCard): [string, string][] {
  const rows: [string, string][] = [];
  if (card.method) rows.push(['Method', card.method]);
  if (card.licence) rows.push(['Licence', card.licence]);
  rows.push(['Windows', `${card.crop_size} × ${card.crop_size} pixels, overlap ${card.overlap}`]);
  return rows;
}
