// Every page x {en, zh} x {light, dark} x {1280x800, 390x844}: axe, sideways scroll, console, CSP and foreign
// requests, and a picture where TRIWARD_OUT names a folder for it. SCREENS=overview,logs limits the pages;
// SCREENS_LANG, SCREENS_THEME and SCREENS_SIZE (desktop|phone) the rest, or SCREENS_SETS=zh-dark-phone,en-light-desktop
// to just these, and SCREENS_AT_ONCE=3 opens so many pages at once.
import { mkdirSync } from 'node:fs';
import {
  axe,
  env,
  launch,
  logIn,
  newContext,
  newPage,
  requireServer,
  settled,
  sidewaysScroll,
  until,
} from './lib.mjs';

requireServer();
const out = process.env.TRIWARD_OUT;
if (out) mkdirSync(out, { recursive: true });
const pick = (name, all) =>
  process.env[name] ? all.filter((x) => process.env[name].split(',').includes(x)) : all;

const plotted = (page) => page.waitForSelector('[data-plot] canvas');
const rows = (page) => page.waitForSelector('table tbody tr');
const lines = (page) => page.waitForSelector('[data-testid=log-list] [data-text]');
const cpu = '100 * (1 - avg by (host) (rate(node_cpu_seconds_total{mode="idle"}[2m])))';
const q = encodeURIComponent;

let host = '';
let members = [];
let setupPath = '';
const PAGES = {
  login: { path: '/login', anonymous: true, refused: [/401/] },
  overview: { path: '/', ready: (p) => p.waitForSelector('[data-testid=hosts]') },
  host: { path: () => `/hosts/${q(host)}`, ready: plotted },
  'host-logs': { path: () => `/hosts/${q(host)}/logs`, ready: lines },
  'host-inventory': { path: () => `/hosts/${q(host)}/inventory`, ready: rows },
  metrics: { path: '/explore', ready: (p) => p.waitForSelector('[data-testid=promql][data-ready=true]') },
  'metrics-graph': { path: `/explore?q=${q(cpu)}`, ready: plotted },
  'metrics-error': {
    path: `/explore?q=${q('sum(rate(node_cpu_seconds_total[5m])) by (')}`,
    ready: (p) => p.waitForSelector('[data-testid=query-error]'),
    refused: [/400/],
  },
  logs: { path: '/logs', ready: lines },
  'logs-detail': {
    path: '/logs',
    ready: async (p) => {
      await p.click('[data-testid=log-list] button[data-pos]', { timeout: 10_000 });
      await p.waitForSelector('[data-testid=log-detail]');
    },
  },
  'logs-partial': {
    path: '/logs',
    ready: async (p) => {
      // As a damaged node answers of which no other one can be asked.
      await p.route(/\/v1\/logs\/(query|hits|facets)\?/, async (route) => {
        const response = await route.fetch();
        const json = await response.json();
        json.stats = {
          ...json.stats,
          partial: true,
          unasked: true,
          damaged: ['2026-05-01 log: block 17: checksum'],
        };
        await route.fulfill({ response, json });
      });
      await p.click('form button.primary');
      await p.waitForSelector('[data-testid=partial]', { timeout: 10_000 });
      await settled(p);
      await p.unrouteAll({ behavior: 'ignoreErrors' });
    },
  },
  'logs-numbers-error': {
    path: `/logs?q=${q('sum by (host) (rate({source="journal"} |= "x" [5m])')}`,
    ready: (p) => p.waitForSelector('[data-testid=query-error]'),
    refused: [/400/],
  },
  'logs-suggest': {
    path: '/logs',
    ready: async (p) => {
      await p.click('[data-search][name=q]');
      await p.keyboard.type('severity:');
      await p.waitForSelector('[data-testid=suggestions] [role=option]', { timeout: 10_000 });
      await p.keyboard.press('ArrowDown');
    },
  },
  'logs-logql': {
    path: `/logs?q=${q('{host=~".+"} | json | status >= 500')}&by=status`,
    refused: [/400/],
    ready: (p) => p.waitForSelector('[data-testid=total]'),
  },
  'logs-numbers': {
    path: `/logs?q=${q('sum by (host) (count_over_time({host=~".+"}[$__auto]))')}`,
    ready: plotted,
  },
  'logs-numbers-table': {
    path: `/logs?view=table&q=${q('topk(5, sum by (host) (rate({host=~".+"}[5m])))')}`,
    ready: (p) => p.waitForSelector('.grid-table tbody tr'),
  },
  'logs-error': {
    path: `/logs?q=${q('sum by (host) (rate({host=~".+"} |= [5m]))')}`,
    ready: (p) => p.waitForSelector('[data-testid=query-error]'),
    refused: [/400/],
  },
  'logs-by': {
    path: '/logs?by=host&top=unit',
    ready: async (p) => {
      await p.waitForSelector('[data-testid=by-legend]');
      await p.click('[data-testid=cost]', { timeout: 10_000 });
    },
  },
  'logs-help': {
    path: '/logs',
    ready: async (p) => {
      await p.click('[data-testid=help-open]');
      await p.waitForSelector('[data-testid=log-help]');
    },
  },
  'logs-help-logql': {
    path: '/logs',
    ready: async (p) => {
      await p.click('[data-testid=help-open]');
      await p.click('[data-testid=help-logql]');
    },
  },
  'logs-export': {
    path: '/logs?q=error',
    ready: async (p) => {
      await p.click('[data-testid=export-open]');
      await p.click('[data-testid=export-csv]');
    },
  },
  'logs-patterns': {
    path: '/logs?view=patterns',
    ready: (p) => p.waitForSelector('[data-testid=patterns] [data-pattern]', { timeout: 10_000 }),
  },
  'logs-tail': { path: '/logs?tail=1', ready: lines },
  events: { path: '/events', ready: (p) => p.waitForSelector('[data-testid=event-list]') },
  'events-detail': {
    path: '/events?lanes=host',
    ready: async (p) => {
      await p.click('[data-testid=event-list] button[data-event]', { timeout: 10_000 });
      await p.waitForSelector('[data-testid=event-detail]');
    },
  },
  'host-events': {
    path: () => `/hosts/${q(host)}/events`,
    ready: (p) => p.waitForSelector('[data-testid=event-list]'),
  },
  agents: { path: '/agents', ready: (p) => p.waitForSelector('[data-testid=agents]') },
  'agents-detail': {
    path: '/agents',
    ready: async (p) => {
      await p.click('[data-agent] a', { timeout: 10_000 });
      await p.waitForSelector('[data-testid=agent-detail]');
    },
  },
  'agents-revoke': {
    path: '/agents',
    ready: async (p) => {
      await p.click('[data-agent] a', { timeout: 10_000 });
      await p.click('[data-testid=revoke]');
      await p.waitForSelector('[data-testid=revoke-name]');
    },
  },
  'agents-enrol': {
    path: '/agents',
    ready: async (p) => {
      await p.click('[data-testid=enrol]', { timeout: 10_000 });
      await p.waitForSelector('[data-testid=enrol-make]');
    },
  },
  'agents-groups': { path: '/agents/groups', ready: (p) => p.waitForSelector('[data-testid=groups]') },
  'agents-config': {
    path: '/agents/groups/shots',
    ready: async (p) => {
      await p.waitForSelector('[data-testid=group-editor]');
      await p.fill(
        '#group-body',
        'metrics:\n  period: 1ms\nlogs:\n  files:\n    - include: [relative.log]\n',
      );
      await p.click('[data-testid=config-check]');
      await p.waitForSelector('[data-testid=config-problems]');
      await p.waitForSelector('[data-testid=config-diff]');
    },
  },
  alerts: {
    path: '/alerts',
    ready: (p) => p.waitForSelector('[data-testid=alerts], [data-testid=alerts-none]'),
  },
  'alerts-history': {
    path: '/alerts/history',
    ready: (p) => p.waitForSelector('[data-testid=alert-history], main .empty'),
  },
  'alerts-silence': {
    path: '/alerts/silences',
    ready: async (p) => {
      await p.click('[data-testid=add-silence]');
      await p.waitForSelector('[data-testid=silence-form]');
    },
  },
  'alerts-logql': {
    path: '/alerts/rules?new=1',
    ready: async (p) => {
      await p.waitForSelector('[data-rules=logs]');
      await p.click('[data-testid=rule-editor] button');
    },
  },
  'alerts-rules': { path: '/alerts/rules', ready: (p) => p.waitForSelector('[data-rules=hosts]') },
  'alerts-rules-edit': {
    path: '/alerts/rules?file=triward',
    ready: (p) => p.waitForSelector('[data-testid=rule-editor]'),
  },
  'alerts-routes': { path: '/alerts/routes', ready: (p) => p.waitForSelector('[data-testid=routes]') },
  cluster: { path: '/cluster', ready: (p) => p.waitForSelector('[data-testid=queue]') },
  'cluster-remove': {
    path: '/cluster',
    ready: async (p) => {
      await p.click('[data-testid=members] [data-testid=remove]', { timeout: 10_000 });
      await p.waitForSelector('[data-testid=remove-name]');
    },
  },
  'cluster-retention': {
    path: '/cluster',
    ready: async (p) => {
      await p.waitForSelector('[data-testid=retention]');
      await p.evaluate(() => document.querySelector('[data-testid=retention]').scrollIntoView());
    },
  },
  'cluster-selectors': {
    path: '/cluster',
    ready: async (p) => {
      await p.waitForSelector('[data-testid=selectors]');
      await p.evaluate(() => document.querySelector('[data-testid=selectors]').scrollIntoView());
    },
  },
  'cluster-selector': {
    path: '/cluster',
    ready: async (p) => {
      await p.waitForSelector('[data-testid=selector-add]');
      await p.click('[data-testid=selector-add]');
      await p.fill('[data-testid=selector-text]', '{unit="nginx"}');
      await p.fill('[data-testid=selector-days]', '5');
      await p.click('[data-testid=selector-check]');
      await p.waitForSelector('[data-testid=selector-preview]');
    },
  },
  'cluster-retention-edit': {
    path: '/cluster',
    ready: async (p) => {
      await p.click('[data-testid=retention-edit]');
      await p.fill('[data-testid=age-logs]', '7');
      await p.waitForSelector('[data-testid=retention-loses]');
    },
  },
  backups: { path: '/backups', ready: (p) => p.waitForSelector('[data-testid=backups]') },
  'backups-archive': {
    path: '/backups',
    ready: async (p) => {
      await p.waitForSelector('[data-testid=log-archive]');
      await p.evaluate(() => document.querySelector('[data-testid=log-archive]').scrollIntoView());
    },
  },
  'backups-archive-edit': {
    path: '/backups',
    ready: async (p) => {
      await p.click('[data-testid=archive-set]', { timeout: 10_000 });
      await p.click('[data-testid=archive-s3]');
    },
  },
  'backups-edit': {
    path: '/backups',
    ready: async (p) => {
      await p.click('[data-testid=schedule-add]');
      await p.waitForSelector('[role=dialog]');
    },
  },
  access: { path: '/access', ready: (p) => p.waitForSelector('[data-user]') },
  'access-user': {
    path: '/access',
    ready: async (p) => {
      await p.click('[data-testid=user-add]');
      await p.waitForSelector('[role=dialog]');
    },
  },
  'access-roles': {
    path: '/access/roles',
    ready: async (p) => {
      await p.waitForSelector('[data-testid=roles]');
      await p.locator('summary').nth(2).click();
    },
  },
  'access-sessions': { path: '/access/sessions', ready: (p) => p.waitForSelector('[data-session]') },
  'access-tokens': {
    path: '/access/tokens',
    ready: async (p) => {
      await p.click('[data-testid=token-add]');
      await p.fill('[name=new-token]', 'screens');
      await p.click('[data-testid=token-save]');
      await p.waitForSelector('[data-testid=secret]');
    },
  },
  'access-audit': {
    path: '/access/audit?action=user',
    ready: async (p) => {
      await p.click('[data-testid=audit-verify]');
      await p.click('[data-audit="user.role"] button');
      await p.waitForSelector('[data-testid=audit-detail]');
      await p.waitForSelector('[data-testid=audit-verdict]');
    },
  },
  'access-account': { path: '/access/account', ready: (p) => p.waitForSelector('[data-session]') },
  setup: {
    path: () => setupPath,
    anonymous: true,
    refused: [/401/],
    ready: (p) => p.waitForSelector('[data-testid=setup] form'),
  },
  'not-found': { path: '/nothing/here' },
  'menu-time': { path: '/', ready: (p) => p.click('[data-testid=range]') },
  'menu-link': { path: '/', ready: (p) => p.click('[data-testid=link]') },
  'menu-more': {
    path: '/',
    ready: async (p) => {
      await p.waitForSelector('main');
      if (await p.locator('[data-testid=nav-more]').count()) await p.click('[data-testid=nav-more]');
    },
  },
  'menu-keys': {
    path: '/',
    ready: async (p) => {
      await p.waitForSelector('main');
      await p.keyboard.press('?');
      await p.waitForSelector('[role=dialog]');
    },
  },
};

const browser = await launch();
let shots = 0;
const problems = [];
{
  const context = await newContext(browser);
  await logIn(context);
  const page = await newPage(context);
  await page.goto(env.url);
  host = await until('a host', () =>
    page.evaluate(
      async () =>
        (await (await fetch('/v1/hosts')).json().catch(() => null))?.hosts?.find((h) => h.state === 'up')
          ?.id ?? document.querySelector('[data-host] a')?.getAttribute('href')?.split('/')[2]?.split('?')[0],
    ),
  );
  // A page whose node is too busy to answer goes on at another member, which is no stranger.
  members = await page.evaluate(async () =>
    (await (await fetch('/v1/session')).json()).members.map((m) => new URL(m.url).origin),
  );
  // Somebody to show, with a history and a set-up link.
  setupPath = await page.evaluate(async () => {
    const send = async (method, path, body) => {
      const r = await fetch(path, {
        method,
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      });
      return r.status === 204 ? {} : r.json();
    };
    const { path } = await send('POST', '/v1/users/eve/invite', { role: 'viewer' });
    await send('PATCH', '/v1/users/eve', { role: 'operator' });
    await send('PATCH', '/v1/users/eve', { role: 'viewer' });
    return path;
  });
  await context.close();
}

const sizes = { desktop: [1280, 800], phone: [390, 844] };
const sets = (process.env.SCREENS_SETS ?? '').split(',').filter(Boolean);
const work = [];
for (const lang of pick('SCREENS_LANG', ['en', 'zh']))
  for (const theme of pick('SCREENS_THEME', ['light', 'dark']))
    for (const size of pick('SCREENS_SIZE', ['desktop', 'phone'])) {
      const set = `${lang}-${theme}-${size}`;
      if (sets.length > 0 && !sets.includes(set)) continue;
      const [width, height] = sizes[size];
      for (const name of pick('SCREENS', Object.keys(PAGES)))
        work.push({ name, set, look: { lang, theme, width, height } });
    }

/** Opens one page, has it looked at, and notes what is wrong with it. */
async function look(context, { name, set }) {
  const spec = PAGES[name];
  const where = `${name}-${set}`;
  const say = (s) => problems.push(`${where}: ${s}`);
  // These the browser writes itself for answers the page provokes on purpose.
  context.expected = spec.refused ?? [];
  // On a starved machine the leader may change; the page asks for its ticket again and shows nothing of it.
  context.retried = [/\/v1\/session\/ticket$/];
  const page = await newPage(context);
  try {
    await page.goto(env.url + (typeof spec.path === 'function' ? spec.path() : spec.path));
    await page.waitForSelector('main');
    await settled(page);
    await spec.ready?.(page);
    await settled(page);
    for (const s of await sidewaysScroll(page)) say(`sideways scroll: ${s}`);
    for (const s of await axe(page)) say(s);
  } catch (e) {
    say(String(e.message ?? e).split('\n')[0]);
  }
  if (out) await page.screenshot({ path: `${out}/${where}.png` });
  await page.close();
  for (const f of context.faults.splice(0)) say(f);
}

/** Takes one page after another, in a context of its own for each variant, as far as nobody must be logged in. */
async function worker() {
  const contexts = new Map();
  for (let job = work.shift(); job; job = work.shift()) {
    const { anonymous } = PAGES[job.name];
    const key = anonymous ? job.name + job.set : job.set;
    if (!contexts.has(key)) {
      const context = await newContext(browser, {
        ...job.look,
        origins: members,
        reducedMotion: 'reduce',
        forgetful: true,
      });
      if (!anonymous) await logIn(context);
      contexts.set(key, context);
    }
    await look(contexts.get(key), job);
    shots++;
  }
  for (const context of contexts.values()) await context.close();
}
await Promise.all(Array.from({ length: Number(process.env.SCREENS_AT_ONCE ?? 1) }, worker));
await browser.close();
for (const p of problems) console.log(`FAIL ${p}`);
console.log(`# screens ${shots}\n# fail ${problems.length}`);
process.exit(problems.length || shots === 0 ? 1 : 0);
