// What the browser tests share: the browser, logging in, and a watch over everything a page must never do.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

export const env = {
  url: (process.env.TRIWARD_URL ?? '').replace(/\/$/, ''),
  user: process.env.TRIWARD_USER ?? 'admin',
  password: process.env.TRIWARD_PASSWORD ?? '',
  chromium: process.env.TRIWARD_CHROMIUM ?? '/usr/bin/chromium',
};

export function requireServer() {
  if (env.url && env.password) return;
  console.error('set TRIWARD_URL and TRIWARD_PASSWORD (and TRIWARD_USER when it is not admin)');
  process.exit(2);
}

export function launch() {
  return chromium.launch({
    executablePath: env.chromium,
    headless: true,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** A context for pages in a language, a theme and a size; with forgetful each page begins without what others chose. */
export async function newContext(
  browser,
  { lang = 'en', theme = 'light', width = 1280, height = 800, origins = [], forgetful = false, ...more } = {},
) {
  const context = await browser.newContext({
    viewport: { width, height },
    ignoreHTTPSErrors: true,
    locale: lang === 'zh' ? 'zh-CN' : 'en-US',
    ...more,
  });
  await context.addInitScript(
    ([l, t, forget]) => {
      if (forget) localStorage.clear();
      localStorage.setItem('triward.lang', l);
      localStorage.setItem('triward.theme', t);
    },
    [lang, theme, forgetful],
  );
  context.faults = [];
  context.allowed = new Set([new URL(env.url).origin, ...origins]);
  return context;
}

/** Opens a page whose faults (console errors, exceptions, CSP violations, foreign requests) are collected. */
export async function newPage(context) {
  const page = await context.newPage();
  const fault = (s) => context.faults.push(s);
  page.on('console', (m) => {
    if (m.type() !== 'error') return;
    // A refused or lost request is written to the console by the browser itself; tests that cause one expect it.
    if (context.expected?.some((re) => re.test(m.text()))) return;
    if (/status of 503/.test(m.text()) && context.retried?.some((re) => re.test(m.location().url))) return;
    fault(`console: ${m.text()} (${m.location().url})`);
  });
  page.on('pageerror', (e) => fault(`exception: ${e.stack ?? e}`));
  const foreign = (url) => {
    const u = new URL(url);
    if (u.protocol === 'data:' || u.protocol === 'blob:') return;
    const origin = u.origin.replace(/^ws/, 'http');
    if (!context.allowed.has(origin)) fault(`request off origin: ${url}`);
  };
  page.on('request', (r) => foreign(r.url()));
  page.on('websocket', (w) => foreign(w.url().replace(/^ws/, 'http')));
  await page.exposeFunction('triwardReportCsp', (s) => fault(`CSP: ${s}`)).catch(() => {});
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (e) => {
      window.triwardReportCsp?.(
        `${e.violatedDirective} ${e.blockedURI} ${e.sourceFile ?? ''}:${e.lineNumber ?? ''}`,
      );
    });
    // For settled: how many questions have no answer yet, to the last byte.
    window.triwardAsking = 0;
    const ask = window.fetch;
    window.fetch = async (...args) => {
      window.triwardAsking++;
      const done = () => window.triwardAsking--;
      try {
        const res = await ask(...args);
        res.clone().arrayBuffer().then(done, done);
        return res;
      } catch (e) {
        done();
        throw e;
      }
    };
  });
  return page;
}

/**
 * Waits until a page shows all that it came for: loaded, connected, no question without an answer, nothing marked busy,
 * fonts there, nothing moving, and no change of the document for a few frames.
 */
export async function settled(page) {
  const still = () => {
    const FRAMES = 4;
    if (!window.triwardStill) {
      window.triwardStill = { frames: 0, why: '' };
      new MutationObserver(([m]) => {
        window.triwardStill = { frames: 0, why: `${m.type} of ${m.target.nodeName} changes` };
      }).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    }
    const link = document.querySelector('[data-state-link]');
    const busy = [...document.querySelectorAll('[aria-busy=true]')].find((e) => {
      const r = e.getBoundingClientRect(); // a chart asks nothing while it is out of sight
      return r.width > 0 && r.bottom > 0 && r.top < innerHeight;
    });
    const moving = document.getAnimations().find((a) => a.playState === 'running');
    const why =
      (document.readyState !== 'complete' && 'it loads') ||
      (window.triwardAsking > 0 && `${window.triwardAsking} questions have no answer`) ||
      (document.fonts.status !== 'loaded' && 'fonts are loaded') ||
      (link && link.dataset.stateLink !== 'live' && `it is ${link.dataset.stateLink}`) ||
      (busy && `${busy.ariaLabel ?? busy.textContent} is busy`) ||
      (moving && `${moving.effect?.target?.className} moves`);
    if (why) window.triwardStill = { frames: 0, why };
    return !why && ++window.triwardStill.frames > FRAMES;
  };
  await page.waitForFunction(still, undefined, { polling: 'raf' }).catch(async (e) => {
    throw new Error(`not settled: ${await page.evaluate(() => window.triwardStill?.why)}`, { cause: e });
  });
}

/** Logs in by the API, so that tests which are not about the login page start behind it. */
export async function logIn(context) {
  const res = await context.request.post(`${env.url}/v1/login`, {
    data: { user: env.user, password: env.password },
    headers: { Origin: new URL(env.url).origin },
  });
  if (!res.ok()) throw new Error(`login answered ${res.status()}: ${await res.text()}`);
}

/** Serious and critical findings of axe. */
export async function axe(page) {
  await page.evaluate(axeSource);
  const result = await page.evaluate(() =>
    window.axe.run(document, {
      resultTypes: ['violations'],
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'],
    }),
  );
  return result.violations
    .filter((v) => v.impact === 'serious' || v.impact === 'critical')
    .map(
      (v) =>
        `axe ${v.id} (${v.impact}): ${v.nodes
          .slice(0, 3)
          .map((n) => `${n.target.join(' ')} – ${n.failureSummary?.split('\n')[1] ?? ''}`)
          .join(' | ')}`,
    );
}

export async function sidewaysScroll(page) {
  return page.evaluate(() => {
    const out = [];
    const width = innerWidth;
    if (document.documentElement.scrollWidth > width)
      out.push(`document ${document.documentElement.scrollWidth}`);
    const main = document.querySelector('main');
    if (main && main.scrollWidth > main.clientWidth + 1)
      out.push(`main ${main.scrollWidth} > ${main.clientWidth}`);
    return out;
  });
}

/** Asks again until fn returns something true or the time is over. */
export async function until(what, fn, ms = 15_000, every = 200) {
  const end = Date.now() + ms;
  for (;;) {
    const v = await fn();
    if (v) return v;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((r) => setTimeout(r, every));
  }
}

/** Runs named steps in order, prints one line each, and ends the process with the right code. */
export class Steps {
  failed = 0;
  passed = 0;
  /** After a step that failed the others are not run. */
  stopAtFirst = false;
  async step(name, fn) {
    if (this.stopAtFirst && this.failed) return;
    const began = Date.now();
    try {
      await fn();
      this.passed++;
      console.log(`ok   ${name} (${Date.now() - began} ms)`);
    } catch (e) {
      this.failed++;
      console.log(`FAIL ${name}: ${e.stack ?? e}`);
    }
  }
  finish() {
    console.log(`# pass ${this.passed}\n# fail ${this.failed}`);
    process.exit(this.failed ? 1 : 0);
  }
}

export function assert(cond, message) {
  if (!cond) throw new Error(message);
}
