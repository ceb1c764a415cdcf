// Fails when what the first page load needs (entry script, its static imports and their style sheets) is more
// than LIMIT bytes after gzip, and prints the size of every chunk.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const LIMIT = 130 * 1024;
const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const manifest = JSON.parse(readFileSync(`${dist}.vite/manifest.json`, 'utf8'));
const size = (file) => gzipSync(readFileSync(dist + file), { level: 9 }).length;

const first = new Set();
function collect(key) {
  const chunk = manifest[key];
  if (!chunk || first.has(chunk.file)) return;
  first.add(chunk.file);
  for (const css of chunk.css ?? []) first.add(css);
  for (const dep of chunk.imports ?? []) collect(dep);
}
for (const [key, chunk] of Object.entries(manifest)) if (chunk.isEntry) collect(key);

const lazy = new Set();
for (const chunk of Object.values(manifest)) {
  for (const file of [chunk.file, ...(chunk.css ?? [])]) if (!first.has(file)) lazy.add(file);
}
const kb = (n) => `${(n / 1024).toFixed(1)} kB gz`;
let total = 0;
for (const file of first) {
  const n = size(file);
  total += n;
  console.log(`entry  ${kb(n).padStart(12)}  ${file}`);
}
for (const file of lazy) console.log(`lazy   ${kb(size(file)).padStart(12)}  ${file}`);
console.log(`entry total ${kb(total)} of at most ${kb(LIMIT)}`);
if (total > LIMIT) {
  console.error('check-size: the first load is too large; move something behind a dynamic import');
  process.exit(1);
}
