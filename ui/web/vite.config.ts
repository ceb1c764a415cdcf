import { svelte } from '@sveltejs/vite-plugin-svelte';
import tailwindcss from '@tailwindcss/vite';
import { defineConfig } from 'vitest/config';

declare const process: { env: Record<string, string | undefined> };
const server = process.env.TRIWARD_URL ?? 'http://127.0.0.1:8443';

// The page runs under `default-src 'self'`: nothing may be inlined as a data: URL and the module preload
// polyfill (an inline-free but needless script) stays out.
export default defineConfig({
  plugins: [tailwindcss(), svelte()],
  base: '/',
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    reportCompressedSize: false,
    manifest: true,
    chunkSizeWarningLimit: 900,
  },
  server: { proxy: { '/v1': { target: server, ws: true }, '/api': server } },
  resolve: process.env.VITEST ? { conditions: ['browser'] } : {},
  test: { environment: 'node', include: ['src/**/*.test.ts'] },
});
