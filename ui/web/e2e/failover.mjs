// The page survives the loss of its node: TRIWARD_KILL_COMMAND stops the node that serves TRIWARD_URL (it gets
// $NODE and $NODE_URL); then the same page must go on, live, on another member, still logged in.
// TRIWARD_RESTORE_COMMAND, when given, is run at the end.
import { exec } from 'node:child_process';
import { assert, env, launch, newContext, newPage, requireServer, Steps, until } from './lib.mjs';

requireServer();
if (!process.env.TRIWARD_KILL_COMMAND) {
  console.error('set TRIWARD_KILL_COMMAND to what stops the node behind TRIWARD_URL');
  process.exit(2);
}
const sh = (command, extra) =>
  new Promise((done, fail) =>
    exec(command, { env: { ...process.env, ...extra } }, (e, out, err) =>
      e ? fail(new Error(`${command}: ${err}`)) : done(out),
    ),
  );

const steps = new Steps();
const browser = await launch();
const context = await newContext(browser);
context.expected = [/./];
const page = await newPage(context);
let members = [];
let killed = '';

await steps.step('logged in by the page and live', async () => {
  await page.goto(env.url);
  await page.fill('[name=username]', env.user);
  await page.fill('[name=password]', env.password);
  await page.keyboard.press('Enter');
  await page.waitForSelector('[data-testid=link][data-state-link=live]', { timeout: 30_000 });
  const session = await page.evaluate(async () => (await fetch('/v1/session')).json());
  members = session.members.map((m) => new URL(m.url).origin);
  for (const m of members) context.allowed.add(m);
  killed = session.node;
  assert(members.length > 1, 'the session names no other member');
});

await steps.step('a chart page with state in its URL is open', async () => {
  const id = await page.$eval('[data-host] a', (a) => new URL(a.href).pathname);
  await page.goto(`${env.url}${id}?range=15m`, { waitUntil: 'commit' });
  // This page fetches its resume ticket once its connection stands; without one there is no going on elsewhere.
  const ticket = page.waitForResponse((r) => new URL(r.url()).pathname === '/v1/session/ticket' && r.ok(), {
    timeout: 30_000,
  });
  await page.waitForSelector('[data-plot] canvas', { timeout: 30_000 });
  await page.waitForSelector('[data-testid=link][data-state-link=live]');
  await (await ticket).finished();
});

await steps.step('its node is stopped: the same page goes on, live, elsewhere, without a login', async () => {
  const path = new URL(page.url()).pathname + new URL(page.url()).search;
  const old = new URL(page.url()).origin;
  await sh(process.env.TRIWARD_KILL_COMMAND, { NODE: killed, NODE_URL: env.url });
  const began = Date.now();
  await until('another origin', () => new URL(page.url()).origin !== old, 40_000);
  await page.waitForSelector('[data-testid=link][data-state-link=live]', { timeout: 30_000 });
  console.log(`#    live elsewhere after ${Date.now() - began} ms`);
  const now = new URL(page.url());
  assert(now.pathname + now.search === path, `the page is ${now.pathname}${now.search}, was ${path}`);
  assert(now.hash === '', 'the ticket stayed in the address bar');
  const node = await page.evaluate(async () => (await (await fetch('/v1/session')).json()).node);
  assert(node !== killed, `the session is still on ${killed}`);
});

await steps.step('the charts keep moving there', async () => {
  await page.waitForSelector('[data-plot] canvas', { timeout: 30_000 });
  const text = () => page.$$eval('figure p.sr-only', (ps) => ps.map((p) => p.textContent).join('\n'));
  const before = await text();
  await until('the charts go on', async () => (await text()) !== before, 60_000);
});

if (process.env.TRIWARD_RESTORE_COMMAND) {
  await steps.step('the node is started again', () =>
    sh(process.env.TRIWARD_RESTORE_COMMAND, { NODE: killed, NODE_URL: env.url }),
  );
}
const off = context.faults.filter((f) => f.startsWith('request off') || f.startsWith('CSP'));
await steps.step('no CSP violation, no request to anybody but members', async () =>
  assert(off.length === 0, off.join('\n  ')),
);
await browser.close();
steps.finish();
