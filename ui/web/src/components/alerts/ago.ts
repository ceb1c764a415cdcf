import { i18n } from '../../i18n/i18n.svelte';

/** How long ago an instant was, in words. */
export function ago(ms: number, now: number): string {
  const t = i18n.t.overview.ago;
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 5) return t.now;
  if (s < 60) return t.s(s);
  if (s < 3600) return t.m(Math.floor(s / 60));
  if (s < 86400) return t.h(Math.floor(s / 3600));
  return t.d(Math.floor(s / 86400));
}
