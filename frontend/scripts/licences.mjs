// The licences of the npm packages whose code is in a bundle.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

/** Folder of the package that a module belongs to, or null for our own modules. */
export function packageOf(id) {
  const parts = id.replace(/^\0/, '').split('?')[0].split('/');
  const at = parts.lastIndexOf('node_modules');
  if (at < 0) return null;
  const scoped = parts[at + 1].startsWith('@');
  return parts.slice(0, at + (scoped ? 3 : 2)).join('/');
}

/** One text: name, version, licence and its wording per package, by name. */
export function licenceTexts(folders) {
  const entries = folders.filter((folder) => existsSync(path.join(folder, 'package.json'))).map(entry);
  entries.sort((a, b) => (a.title < b.title ? -1 : 1));
  const line = '-'.repeat(78);
  const texts = entries.map(({ title, text }) => `${line}\n${title}\n${line}\n\n${text}\n`);
  return ['The scripts in this folder contain code of these packages.\n', ...texts].join('\n');
}

function entry(folder) {
  const { name, version, license } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const file = readdirSync(folder).sort().find((each) => /^(licen[cs]e|copying)/i.test(each));
  const text = file ? readFileSync(path.join(folder, file), 'utf8').replace(/\r\n/g, '\n').trim() : '(no text)';
  return { title: `${name} ${version} (${license})`, text };
}
