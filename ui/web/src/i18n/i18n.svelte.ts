// The language of the page. English is in the entry chunk, Chinese comes as its own.
import { recall, remember } from '../lib/prefs.svelte';
import { type Dictionary, en } from './en';

export type Language = 'en' | 'zh';
export const LANGUAGES: { id: Language; name: string }[] = [
  { id: 'en', name: 'English' },
  { id: 'zh', name: '中文' },
];

class I18n {
  t = $state.raw<Dictionary>(en);
  lang = $state<Language>('en');

  async boot(): Promise<void> {
    const saved = recall('triward.lang');
    const wanted = saved ?? (navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en');
    await this.use(wanted === 'zh' ? 'zh' : 'en', false);
  }
  async use(lang: Language, keep = true): Promise<void> {
    this.t = lang === 'zh' ? (await import('./zh')).zh : en;
    this.lang = lang;
    document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en';
    if (keep) remember('triward.lang', lang);
  }
  /** A whole number in groups of three. */
  int(n: number | null | undefined): string {
    return n == null || !Number.isFinite(n) ? '-' : new Intl.NumberFormat('en-US').format(n);
  }
  /** "lines, counts" */
  list(names: string[]): string {
    return names.join(this.lang === 'zh' ? '、' : ', ');
  }
  ago(ms: number | null | undefined, now: number): string {
    const a = this.t.overview.ago;
    if (!ms) return a.never;
    const s = Math.max(0, Math.round((now - ms) / 1000));
    if (s < 5) return a.now;
    if (s < 100) return a.s(s);
    if (s < 6000) return a.m(Math.round(s / 60));
    if (s < 172800) return a.h(Math.round(s / 3600));
    return a.d(Math.round(s / 86400));
  }
  /** "Last 15 minutes" */
  range(r: string): string {
    const n = Number.parseInt(r, 10);
    const unit = r.at(-1) as 's' | 'm' | 'h' | 'd' | 'w';
    return `${this.t.top.last} ${this.t.top.presets[unit](n)}`;
  }
}

export const i18n = new I18n();
