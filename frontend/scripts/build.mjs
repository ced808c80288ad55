// Builds the two pages into src/terrafuse/web/page: classic scripts with relative addresses, so that
// they also open from disk. The same sources give the same bytes.
import { cp, mkdir, rm } from 'node:fs/promises';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';
import { licenceTexts, packageOf } from './licences.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const out = path.resolve(process.argv[2] ?? path.join(root, '../src/terrafuse/web/page'));
// Name of the bundle → HTML file beside package.json; its script is src/<name>/main.ts.
const pages = { viewer: 'index.html', jobs: 'jobs.html' };
const packages = new Set();

const notePackages = {
  name: 'note-packages',
  generateBundle(_, bundle) {
    for (const chunk of Object.values(bundle)) {
      for (const [id, module] of Object.entries(chunk.modules ?? {})) {
        const folder = module.renderedLength > 0 ? packageOf(id) : null;
        if (folder) packages.add(folder);
      }
      // Style sheets leave no modules behind; they come from the scripts' own imports.
    }
  },
};

// LERC and Zstandard come as WebAssembly, which the server's security policy forbids; rasters in them
// are copied by the server.
const withoutWasm = {
  name: 'without-wasm',
  enforce: 'pre',
  load(id) {
    const found = /geotiff\/dist-module\/compression\/(lerc|zstd)\.js$/.exec(id);
    if (!found) return null;
    const message = `rasters compressed by ${found[1].toUpperCase()} are not read in a browser`;
    return `export const zstd = { init: async () => { throw new Error('${message}') } }; export default null;`;
  },
};

await rm(out, { recursive: true, force: true });
await mkdir(path.join(out, 'assets'), { recursive: true });
for (const [name, html] of Object.entries(pages)) {
  await build({
    root,
    configFile: false,
    publicDir: false,
    logLevel: 'warn',
    plugins: [withoutWasm, notePackages],
    define: { 'process.env.NODE_ENV': '"production"' },
    build: {
      outDir: path.join(out, 'assets'),
      emptyOutDir: false,
      target: ['es2022'],
      chunkSizeWarningLimit: 2000,
      cssCodeSplit: false,
      sourcemap: false,
      lib: {
        entry: path.join(root, 'src', name, 'main.ts'),
        formats: ['iife'],
        name: `terrafuse_${name}`,
        fileName: () => `${name}.js`,
        cssFileName: name,
      },
    },
  });
  await cp(path.join(root, html), path.join(out, html));
}
writeFileSync(path.join(out, 'THIRD_PARTY.txt'), licenceTexts([...packages]));
