import { expect, test } from 'vitest';
import { packageOf } from '../scripts/licences.mjs';

test('a module names its package, also a scoped one', () => {
  expect(packageOf('/x/node_modules/ol/Map.js')).toBe('/x/node_modules/ol');
  expect(packageOf('/x/node_modules/a/node_modules/@b/c/d.js')).toBe('/x/node_modules/a/node_modules/@b/c');
  expect(packageOf('/x/src/viewer/main.ts')).toBeNull();
});
