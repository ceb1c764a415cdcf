// The dashboard against a real server: login, live overview, host, search by word, live tail.
// TRIWARD_URL, TRIWARD_USER, TRIWARD_PASSWORD; TRIWARD_WORD is a word some recent log line contains (found out by
// itself when absent); TRIWARD_LOG_COMMAND is run with the test's own word as $WORD and should make a monitored
// host log a line with it.
import { exec } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { assert, env, launch, logIn, newContext, newPage, requireServer, Steps, until } from './lib.mjs';

requireServer();
const steps = new Steps();
const browser = await launch();

const anonymous = await newContext(browser);
anonymous.expected = [/40[13]/, /429/];
await steps.step(
  'login: language and theme first, a wrong password is told, the right one enters',
  async () => {
    const page = await newPage(anonymous);
    await page.goto(`${env.url}/cluster`);
    await page.getByRole('button', { name: /English|中文/ }).click();
    await page.getByRole('menuitemradio', { name: '中文' }).click();
    await page.getByRole('button', { name: '登录', exact: true }).waitFor();
    await page.getByRole('button', { name: /中文/ }).click();
    await page.getByRole('menuitemradio', { name: 'English' }).click();
    await page.fill('[name=username]', env.user);
    await page.fill('[name=password]', `${env.password}-wrong`);
    await page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.getByRole('alert').waitFor();
    await page.fill('[name=password]', env.password);
    await page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.getByTestId('tolerates').waitFor();
    assert(new URL(page.url()).pathname === '/cluster', 'login did not keep the page asked for');
    await page.close();
  },
);
const expectClean = (context, what) => {
  assert(context.faults.length === 0, `${what}: ${context.faults.join('\n  ')}`);
};
await steps.step('login: no fault', async () => expectClean(anonymous, 'login'));
await anonymous.close();

const context = await newContext(browser);
await logIn(context);
const page = await newPage(context);
let host = '';

await steps.step('overview: connected, hosts shown, values change by themselves', async () => {
  await page.goto(`${env.url}/`);
  await page.waitForSelector('[data-testid=link][data-state-link=live]');
  await page.waitForSelector('tr[data-host]');
  const read = () =>
    page.$$eval('tr[data-host]', (rows) =>
      rows
        .map((r) => [...r.querySelectorAll('[data-col]')].map((c) => c.textContent.trim()).join('|'))
        .join('\n'),
    );
  const first = await read();
  await until('a value changes', async () => (await read()) !== first, 45_000);
  host = await page.$eval('tr[data-host]', (r) => r.dataset.host);
});

await steps.step('overview: filter is in the URL and back undoes a page', async () => {
  await page.keyboard.press('/');
  await page.keyboard.type(host.slice(0, 4));
  await until('the filter in the URL', () => new URL(page.url()).searchParams.get('q') === host.slice(0, 4));
  await page.keyboard.press('Escape');
  await page.locator('tr[data-host] a').first().click();
  await page.waitForURL(/\/hosts\//);
  await page.goBack();
  await until('back', () => new URL(page.url()).pathname === '/');
});

await steps.step('host: facts, charts drawn, they go on, drag zooms all and sets the range', async () => {
  await page.goto(`${env.url}/?range=5m`);
  await page.locator(`tr[data-host="${host}"] a`).first().click();
  await page.waitForSelector('[data-plot] canvas', { timeout: 30_000 });
  assert(new URL(page.url()).searchParams.get('range') === '5m', 'the range did not come along');
  const text = () => page.$$eval('figure p.sr-only', (ps) => ps.map((p) => p.textContent).join('\n'));
  const before = await text();
  await until('the charts go on', async () => (await text()) !== before, 60_000);
  const plot = page.locator('[data-plot] .u-over').first();
  const box = await plot.boundingBox();
  await page.mouse.move(box.x + box.width * 0.8, box.y + 40);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.98, box.y + 40, { steps: 6 });
  await page.mouse.up();
  await page.waitForURL(/from=\d+&to=\d+/);
  await page.waitForSelector('[data-plot] canvas', { timeout: 30_000 });
  await page.getByTestId('live').click();
  await until('live again', () => !page.url().includes('from='));
});

await steps.step('host: inventory and latest values', async () => {
  await page.getByRole('link', { name: 'Inventory' }).click();
  await page.waitForSelector('tbody tr', { timeout: 20_000 });
});

await steps.step('metrics: completion offers names, graph, table, error place', async () => {
  await page.goto(`${env.url}/explore`);
  await page.waitForSelector('[data-testid=promql][data-ready=true]');
  await page.getByTestId('promql').click();
  await page.keyboard.type('node_lo');
  await page
    .locator('.cm-tooltip-autocomplete li', { hasText: 'node_load1' })
    .first()
    .waitFor({ timeout: 20_000 });
  await page.keyboard.press('Escape');
  await page.keyboard.type('ad1');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Enter');
  await page.waitForSelector('[data-plot] canvas', { timeout: 30_000 });
  await page.getByRole('button', { name: 'Table', exact: true }).click();
  await page.waitForSelector('tbody tr');
  context.expected = [/400/, /422/];
  await page.goto(`${env.url}/explore?q=${encodeURIComponent('sum(rate(up[5m])) by (')}`);
  await page.getByTestId('query-error').waitFor({ timeout: 20_000 });
  context.expected = [];
});

let word = process.env.TRIWARD_WORD ?? '';
await steps.step(
  'logs: search by word marks it, the histogram counts, severity filter in and out',
  async () => {
    await page.goto(`${env.url}/logs?range=1d`);
    await page.waitForSelector('[data-testid=log-list] [data-text]', { timeout: 30_000 });
    if (!word) {
      word = await page.$$eval(
        '[data-testid=log-list] [data-text]',
        (els) => els.map((e) => /[A-Za-z]{5,}/.exec(e.textContent)?.[0]).find(Boolean) ?? '',
      );
    }
    assert(word, 'no word to search for');
    await page.fill('[data-search][name=q]', word);
    await page.keyboard.press('Enter');
    await until('every row has the word marked', async () => {
      const rows = await page.$$eval('[data-testid=log-list] [data-text]', (els) =>
        els.map((e) => e.textContent.toLowerCase()),
      );
      return rows.length > 0 && rows.every((r) => r.includes(word.toLowerCase()) || r.endsWith('…'));
    });
    assert((await page.locator('mark').count()) > 0, 'the word is not marked');
    await until('a total', async () => /[1-9]/.test((await page.getByTestId('total').textContent()) ?? ''));
    await page.locator('[data-testid=log-list] button[data-pos]').first().click();
    await page.getByTestId('log-detail').waitFor();
    await page.getByTestId('context').click();
    await page.waitForSelector('[data-here]', { timeout: 15_000 });
    await page.getByRole('button', { name: /^Only with this: host=/ }).click();
    await until('the filter is in the query', () =>
      /host:/.test(new URL(page.url()).searchParams.get('q') ?? ''),
    );
    await page.waitForSelector('[data-testid=log-list] [data-text]', { timeout: 15_000 });
  },
);

await steps.step(
  'logs: suggestions are chosen by keys, and the field alone decides what is searched',
  async () => {
    await page.goto(`${env.url}/logs?range=1d`);
    const field = page.locator('[data-search][name=q]');
    const options = page.locator('[data-testid=suggestions] [role=option]');
    await field.click();
    await page.keyboard.type('sever');
    await options.filter({ hasText: 'severity:' }).first().waitFor({ timeout: 15_000 });
    assert((await field.getAttribute('aria-expanded')) === 'true', 'the list is not announced');
    for (let i = 0; !(await field.inputValue()).startsWith('severity:') && i < 20; i++) {
      await page.keyboard.press('ArrowDown');
      const on = await field.getAttribute('aria-activedescendant');
      if (on && /severity:/.test(await page.locator(`[id="${on}"]`).textContent()))
        await page.keyboard.press('Enter');
    }
    assert((await field.inputValue()) === 'severity:', `the field has ${await field.inputValue()}`);
    await options.first().waitFor({ timeout: 15_000 }); // its values
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    assert(/^severity:[a-z]+$/.test(await field.inputValue()), `the field has ${await field.inputValue()}`);
    assert(!new URL(page.url()).searchParams.has('q'), 'choosing has searched');
    await page.keyboard.press('ArrowDown');
    await options.first().waitFor({ timeout: 15_000 });
    await page.keyboard.press('Escape');
    assert((await options.count()) === 0, 'Escape has not closed the list');
    await page.keyboard.press('Enter');
    await until('the search', () => /^severity:/.test(new URL(page.url()).searchParams.get('q') ?? ''));
    await page.waitForSelector('[data-testid=log-list] [data-text]', { timeout: 15_000 });
  },
);

await steps.step('logs: LogQL lists lines, draws numbers, and marks the place of a mistake', async () => {
  const search = async (text) => {
    await page.fill('[data-search][name=q]', text);
    await page.keyboard.press('Enter');
  };
  await page.goto(`${env.url}/logs?range=1d`);
  const options = page.locator('[data-testid=suggestions] [role=option]');
  await page.click('[data-search][name=q]');
  await page.keyboard.type('{sou');
  await options
    .filter({ hasText: /^source/ })
    .first()
    .click({ timeout: 15_000 });
  await options.first().waitFor({ timeout: 15_000 }); // its values
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  const typed = await page.inputValue('[data-search][name=q]');
  assert(/^\{source="[^"]+"$/.test(typed), `the field has ${typed}`);
  await search('{source=~".+"}');
  await page.waitForSelector('[data-testid=log-list] [data-text]', { timeout: 15_000 });
  await page.locator('[data-testid=log-list] button[data-pos]').first().click();
  await page.getByRole('button', { name: /^Only with this: source=/ }).click();
  await until('a stage more', () =>
    /^\{source=~"\.\+"\} \| source="/.test(new URL(page.url()).searchParams.get('q') ?? ''),
  );
  await page.waitForSelector('[data-testid=log-list] [data-text]', { timeout: 15_000 });
  await page
    .getByRole('button', { name: /^Drop \| source=/ })
    .first()
    .click();
  await until('the stage is gone', () => new URL(page.url()).searchParams.get('q') === '{source=~".+"}');

  // The tab of a host puts its own condition into every selector.
  await page.goto(`${env.url}/`);
  const path = (await page.locator('tr[data-host] a').first().getAttribute('href')).split('?')[0];
  const agent = decodeURIComponent(path.split('/').at(-1));
  const selector = page.waitForRequest((r) => r.url().includes('/v1/logs/query'));
  await page.goto(`${env.url}${path}/logs?range=1d&q=${encodeURIComponent('{source=~".+"}')}`);
  const own = new URL((await selector).url()).searchParams.get('query');
  assert(own === `{agent="${agent}", source=~".+"}`, own);
  await page.waitForSelector('[data-testid=log-list] [data-text]', { timeout: 15_000 });
  await page.goto(`${env.url}/logs?range=1d`);

  await search('sum by (source) (count_over_time({source=~".+"}[1h]))');
  await page.waitForSelector('[data-testid=log-numbers]');
  await page.waitForSelector('[data-plot] canvas', { timeout: 15_000 });
  assert((await page.getByTestId('log-list').count()) === 0, 'there is a list beside the chart');
  await page.click('[data-testid=numbers-table]');
  await page.waitForSelector('.grid-table tbody tr');

  context.expected = [/400/];
  const more = [];
  const note = (r) => r.url().includes('/v1/logs/facets') && more.push(r.url());
  page.on('request', note);
  for (const [text, at] of [
    ['sum(rate({source="错误"} |= [5m]))', '['],
    ['{source="错误"} | nothing', 'n'],
  ]) {
    await search(text);
    const wrong = page.getByTestId('query-error');
    await wrong.filter({ hasText: text }).waitFor({ timeout: 15_000 });
    const marked = await wrong.locator('.bg-crit').textContent();
    assert(marked === at, `${text}: ${marked} is marked`);
  }
  page.off('request', note);
  assert(more.length === 0, `more is asked about a query that is wrong: ${more.join(' ')}`);
  context.expected = [];
});

await steps.step('logs: every example of the help can be asked', async () => {
  await page.goto(`${env.url}/logs?range=1d`);
  await page.click('[data-testid=help-open]');
  const shown = () =>
    page.$$eval('[data-testid=log-help] code', (all) =>
      all.filter((c) => c.checkVisibility()).map((c) => c.textContent),
    );
  const words = await shown();
  await page.click('[data-testid=help-logql]');
  await until('LogQL', async () => (await shown())[0].startsWith('{'));
  const logql = await shown();
  assert(words.length > 10 && logql.length > 10, `${words.length} and ${logql.length} examples`);
  const refused = await page.evaluate(
    async ([boxed, others]) => {
      const q = encodeURIComponent;
      const asks = [
        ...boxed.map((x) => [x, `/v1/logs/query?limit=1&query=${q(x)}`]),
        ...others.map((x) => [x, `/loki/api/v1/query_range?limit=1&query=${q(x.replace('$__auto', '1m'))}`]),
      ];
      const out = [];
      for (const [x, url] of asks) {
        const res = await fetch(url);
        if (!res.ok) out.push(`${x}: ${await res.text()}`);
      }
      return out;
    },
    [words, logql],
  );
  assert(refused.length === 0, refused.join('\n'));
  await page.locator('[data-testid=log-help] button:has(code):visible').first().click();
  assert((await page.inputValue('[data-search][name=q]')) === logql[0], 'the example is not in the field');
});

await steps.step('logs: lines are counted by a field, and a value of it becomes a filter', async () => {
  await page.goto(`${env.url}/logs?range=1d`);
  await page.selectOption('[data-testid=by]', 'source');
  await until('the choice is in the URL', () => new URL(page.url()).searchParams.get('by') === 'source');
  await page.locator('[data-testid=by-legend] button').first().click();
  await until('the filter', () => /^source:/.test(new URL(page.url()).searchParams.get('q') ?? ''));
  await page.fill('[data-testid=top-name]', 'agent');
  await page.keyboard.press('Enter');
  await page.locator('[data-facet=agent] li').first().waitFor({ timeout: 15_000 });
  await page.click('[data-testid=cost]');
  await page.getByTestId('cost-detail').waitFor();
});

await steps.step('logs: on a phone the list scrolls by itself and loads older lines', async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto(`${env.url}/logs?range=1d`);
  await page.waitForSelector('[data-testid=log-list] [data-text]');
  const rows = () => page.$$eval('[data-testid=log-list] button[data-pos]', (all) => all.length);
  const height = () => page.$eval('[data-testid=log-list]', (l) => [l.clientHeight, l.scrollHeight]);
  const [shown, all] = await height();
  assert(all > shown && (await rows()) < 100, `${await rows()} rows in ${shown} of ${all}`);
  await page.$eval('[data-testid=log-list]', (l) => l.scrollTo(0, l.scrollHeight));
  await until('older lines', async () => (await height())[1] > all);
  await page.setViewportSize({ width: 1280, height: 800 });
});

await steps.step('logs: an export is the query and the range as shown, and whole', async () => {
  const at = Date.now();
  await page.goto(
    `${env.url}/logs?from=${at - 86_400_000}&to=${at}&q=${encodeURIComponent('{source=~".+"}')}`,
  );
  await page.click('[data-testid=export-open]');
  await until('a count', async () =>
    /^[1-9]/.test((await page.getByTestId('export-lines').textContent()) ?? ''),
  );
  const said = Number((await page.getByTestId('export-lines').textContent()).replace(/\D/g, ''));
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.click('[data-testid=export-go]'),
  ]);
  const lines = (await readFile(await download.path(), 'utf8')).trimEnd().split('\n');
  const end = JSON.parse(lines.at(-1)).end;
  assert(
    end?.lines === lines.length - 1 && end.lines === said,
    `${lines.length} lines, ${said} said, ${lines.at(-1)}`,
  );
  assert(download.suggestedFilename().endsWith('.jsonl'), download.suggestedFilename());

  await page.click('[data-testid=export-csv]');
  await page.fill('[data-testid=export-columns]', 'time,text');
  await page.fill('[data-testid=export-limit]', '2');
  const [csv] = await Promise.all([page.waitForEvent('download'), page.click('[data-testid=export-go]')]);
  const table = await readFile(await csv.path(), 'utf8');
  assert(/^\ufefftime,text\r?\n/.test(table), table.slice(0, 100));

  context.expected = [/400/];
  await page.fill('[data-testid=export-columns]', 'time,');
  await page.click('[data-testid=export-go]');
  await page.locator('[data-testid=export] [role=alert]').waitFor();
  context.expected = [];
});

await steps.step(
  'logs: live tail pins to the bottom, freezes on scroll, tells how many are new',
  async () => {
    const run = (w) =>
      process.env.TRIWARD_LOG_COMMAND
        ? new Promise((done) =>
            exec(process.env.TRIWARD_LOG_COMMAND, { env: { ...process.env, WORD: w } }, done),
          )
        : Promise.resolve();
    await page.goto(`${env.url}/logs?tail=1`);
    await page.waitForSelector('[data-testid=log-list] [data-text]', { timeout: 30_000 });
    const list = page.getByTestId('log-list');
    const bottom = () => list.evaluate((e) => e.scrollHeight - e.scrollTop - e.clientHeight);
    const last = () =>
      page.$$eval('[data-testid=log-list] button[data-pos]', (b) =>
        b
          .map((x) => x.dataset.pos)
          .sort((a, c) => Number.parseInt(a, 10) - Number.parseInt(c, 10))
          .at(-1),
      );
    const before = await last();
    const mine = `tail${Date.now().toString(36)}`;
    await run(mine);
    await until('new rows appear', async () => (await last()) !== before, 60_000);
    if (process.env.TRIWARD_LOG_COMMAND) await list.getByText(mine).first().waitFor({ timeout: 30_000 });
    assert((await bottom()) < 40, 'the tail is not pinned to the bottom');
    const scrollable = await list.evaluate((e) => e.scrollHeight > e.clientHeight + 200);
    if (scrollable) {
      await list.hover();
      await page.mouse.wheel(0, -400);
      await until('scrolled up', async () => (await bottom()) > 100);
      await run(`${mine}b`);
      await page.getByTestId('fresh').waitFor({ timeout: 60_000 });
      await page.getByTestId('fresh').click();
      await until('back at the bottom', async () => (await bottom()) < 40);
    }
  },
);

await steps.step('cluster: one leader, queue moves', async () => {
  await page.goto(`${env.url}/cluster`);
  await page.waitForSelector('[data-role=leader]');
  assert((await page.locator('[data-role=leader]').count()) === 1, 'not exactly one leader');
  const applied = () => page.locator('[data-role=leader] [data-applied]').textContent();
  const first = await applied();
  await until('the applied index moves', async () => (await applied()) !== first, 60_000);
});

await steps.step('cluster: a consumer of the queue is seen and replayed', async () => {
  const ask = (method, path, data) =>
    context.request.fetch(`${env.url}${path}`, {
      method,
      data,
      headers: { Origin: new URL(env.url).origin },
    });
  const made = await ask('POST', '/v1/queue/consumers', { name: 'e2e', topics: ['logs'], from: 'end' });
  assert(made.ok(), `making a consumer answered ${made.status()}`);
  await page.goto(`${env.url}/cluster`);
  const row = page.locator('[data-consumer=e2e]');
  await row.getByTestId('queue-replay').click();
  const dialog = page.getByRole('dialog');
  await dialog.getByTestId('replay-beginning').check();
  assert(await dialog.getByTestId('replay-do').isDisabled(), 'a replay need not be confirmed');
  await dialog.getByTestId('replay-understood').check();
  await dialog.getByTestId('replay-do').click();
  await dialog.waitFor({ state: 'detached' });
  await until(
    'the consumer is behind',
    async () => (await row.getAttribute('data-standing')) !== 'fine',
    30_000,
  );
  const gone = await ask('DELETE', '/v1/queue/consumers/e2e');
  assert(gone.ok(), `deleting a consumer answered ${gone.status()}`);
  await row.waitFor({ state: 'detached' });
});

await steps.step(
  'backups: a schedule is made, run, changed and deleted; a backup is downloaded',
  async () => {
    await page.goto(`${env.url}/backups`);
    await page.getByTestId('schedule-add').click();
    const dialog = page.getByRole('dialog');
    await dialog.getByTestId('schedule-name').fill('e2e');
    await dialog.getByRole('button', { name: 'Try the place' }).click();
    await dialog.getByText('Backups can be stored there').waitFor();
    await dialog.getByTestId('schedule-save').click();
    const row = page.locator('[data-schedule=e2e]');
    await row.getByRole('button', { name: 'Run now' }).click();
    await until('the backup is good', async () => (await row.textContent())?.includes('Good'), 60_000);
    await row.getByRole('button', { name: 'Edit' }).click();
    await dialog.getByLabel('Keep the last').fill('3');
    await dialog.getByTestId('schedule-save').click();
    await row.getByText('last 3').waitFor();
    await page.getByTestId('save-now').click();
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByTestId('download').click(),
    ]);
    const head = await readFile(await download.path());
    assert(head.subarray(0, 8).toString() === 'TRIWARDB', `downloaded ${head.subarray(0, 20)}`);
    assert(/^triward-.*\.triward$/.test(download.suggestedFilename()), download.suggestedFilename());
    page.once('dialog', (d) => d.accept());
    await row.getByRole('button', { name: 'Delete' }).click();
    await row.waitFor({ state: 'detached' });
  },
);

await steps.step(
  'retention: shown for every node, changed with a word of what goes, given back',
  async () => {
    await page.goto(`${env.url}/cluster`);
    const section = page.getByTestId('retention');
    await section.waitFor();
    assert((await section.locator('[data-disk]').count()) === 3, 'not every node has its disk');
    const age = section.locator('[data-kind=logs] [data-age]');
    const before = await age.textContent();
    await page.click('[data-testid=retention-edit]');
    await page.fill('[data-testid=age-logs]', '700');
    await page.waitForSelector('[data-testid=retention-loses]');
    assert(await page.getByTestId('retention-save').isDisabled(), 'data goes without a word');
    await page.check('[data-testid=retention-understood]');
    await page.click('[data-testid=retention-save]');
    await until('the new age', async () => (await age.textContent()) === '700 days');
    page.once('dialog', (d) => d.accept());
    await section.getByRole('button', { name: 'As configured' }).click();
    await until('the age of before', async () => (await age.textContent()) === before);
  },
);

await steps.step(
  'agents: a configuration is checked, saved, taken by the agent, brought back and removed; a host may be enrolled',
  async () => {
    await page.goto(`${env.url}/agents/groups/e2e`);
    await page.getByTestId('group-editor').waitFor();
    const body = page.locator('#group-body');
    await body.fill('metrics:\n  period: 1ms\n');
    await page.getByTestId('config-save').click();
    await page.getByTestId('config-problems').getByText('line 2').waitFor();
    await body.fill('metrics:\n  exclude: ["node_netstat_.*"]\nheartbeat: {period: 2s}\n');
    await page.getByTestId('config-save').click();
    await page.getByText('Version 1 is saved').waitFor();

    await page.goto(`${env.url}/agents`);
    const row = page.locator('[data-agent][data-state=up]').first();
    await row.locator('a').first().click();
    const detail = page.getByTestId('agent-detail');
    await detail.getByLabel('Move to group').fill('e2e');
    await detail.getByTestId('move').click();
    await until(
      'the row says current',
      async () => /e2e[\s\S]*current/.test((await row.textContent()) ?? ''),
      60_000,
    );

    await page.goto(`${env.url}/agents/groups/e2e`);
    await page.getByTestId('group-editor').waitFor();
    await body.fill('metrics:\n  exclude: ["node_sockstat_.*"]\n');
    await page.getByTestId('config-check').click();
    await page.getByTestId('config-diff').getByText('- heartbeat').waitFor();
    await page.getByTestId('config-save').click();
    await page.getByText('Version 2 is saved').waitFor();
    page.once('dialog', (d) => d.accept());
    await page.getByRole('button', { name: 'Bring back' }).first().click();
    await page.getByText('Version 3 is saved').waitFor();

    await page.goto(`${env.url}/agents`);
    await row.locator('a').first().click();
    await detail.getByLabel('Move to group').fill('default');
    await detail.getByTestId('move').click();
    await detail.getByText('in group default now').waitFor();
    await page.goto(`${env.url}/agents/groups/e2e`);
    await page.getByTestId('group-editor').waitFor();
    page.once('dialog', (d) => d.accept());
    await page.getByRole('button', { name: 'Remove' }).click();
    await page.getByTestId('groups').waitFor();

    await page.goto(`${env.url}/agents`);
    await page.getByTestId('enrol').click();
    await page.getByTestId('enrol-make').click();
    const command = (await page.getByTestId('enrol-command').textContent()) ?? '';
    assert(/TRIWARD_TOKEN=twa_\S+ triward-agent enroll --url https:/.test(command), 'no command to enrol');
    await page.getByText('Waiting for the host').waitFor();
    await page.keyboard.press('Escape');
  },
);

await steps.step(
  'events: one comes by itself, filters and the detail are in the URL, repeats are one row',
  async () => {
    const list = page.getByTestId('event-list');
    await page.goto(`${env.url}/events?kind=agent_enrolled&range=1d`);
    await list.getByText('was enrolled').first().waitFor();
    await page.goto(`${env.url}/events`);
    await list.locator('li').first().waitFor();
    const name = `e2e_${Date.now()}`;
    const status = await page.evaluate(
      async (kind) =>
        (
          await fetch('/monitor/events', {
            method: 'POST',
            headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify(
              [0, 1, 2].map((i) => ({
                agent_id: 'e2e-host',
                timestamp: Date.now() - 1000 + i,
                data: { name: kind, value: 'the test was here', tags: { severity: 'warning', key: 'x' } },
              })),
            ),
          })
        ).status,
      name,
    );
    assert(status === 204, `sending events answers ${status}`);
    const row = list.locator('li', { hasText: name });
    await row.getByText('3×').waitFor({ timeout: 20_000 });
    assert((await row.count()) === 1, 'repeats are more than one row');
    await row.getByRole('button').click();
    const detail = page.getByTestId('event-detail');
    await detail.getByText('the test was here').first().waitFor();
    await detail
      .getByRole('button', { name: `Add to the query: kind=${name}` })
      .or(detail.locator('dd button').first())
      .first()
      .click();
    await until('the kind in the URL', () => new URL(page.url()).searchParams.get('kind') === name);
    await page.reload();
    await list.getByText('the test was here').first().waitFor();
    assert((await list.locator('li').count()) === 1, 'the filter is lost by a reload');
    await page.getByTestId('event-severity').selectOption('critical');
    await page.getByText('No events in this time').waitFor();
    await page.goto(`${env.url}/`);
    await page.getByTestId('last-events').getByText('the test was here').first().click();
    await page.getByTestId('event-detail').waitFor();
  },
);

await steps.step(
  'access: invite a user, set up by the link in another browser, change the role, find it in the audit log, delete',
  async () => {
    await page.goto(`${env.url}/access`);
    await page.click('[data-testid=user-add]');
    await page.fill('[name=new-user]', 'e2e-ada');
    await page.click('[data-testid=user-save]');
    const link = await page.locator('[data-testid=secret]').inputValue();
    assert(link.startsWith(`${env.url}/setup#tws_`), link);
    await page.getByRole('button', { name: 'Done' }).click();
    const row = page.locator('[data-user=e2e-ada]');
    await row.getByText('invited').waitFor();

    const other = await newContext(browser);
    other.expected = [/401/, /403/];
    const theirs = await newPage(other);
    await theirs.goto(link);
    await theirs.fill('[name=password]', 'correct horse ada');
    await theirs.fill('[name=again]', 'correct horse eve');
    await theirs.getByRole('button', { name: 'Set password and log in' }).click();
    await theirs.getByText('The two are not the same').waitFor();
    await theirs.fill('[name=again]', 'correct horse ada');
    await theirs.getByRole('button', { name: 'Set password and log in' }).click();
    await theirs.waitForSelector('[data-testid=hosts]');
    assert(!theirs.url().includes('tws_'), theirs.url());
    await theirs.goto(`${env.url}/access`);
    await theirs.getByText('Change password').first().waitFor();
    assert(
      (await theirs.locator('[data-testid=user-add]').count()) === 0,
      'a viewer is offered to add users',
    );
    assert(
      (await theirs.getByRole('link', { name: 'Audit log' }).count()) === 0,
      'a viewer is offered the audit log',
    );
    const status = await theirs.evaluate(async () => (await fetch('/v1/audit')).status);
    assert(status === 403, `the audit log answers a viewer ${status}`);
    await theirs.goto('about:blank');
    await theirs.goto(link);
    await theirs.getByText('used already').waitFor();

    await row.getByText('active').waitFor();
    await row.getByRole('combobox').selectOption('operator');
    await until('the role', async () => {
      const a = await page.evaluate(async () => (await fetch('/v1/users')).json());
      return a.users.find((u) => u.name === 'e2e-ada')?.role === 'operator';
    });
    page.once('dialog', (d) => d.accept());
    await row.getByRole('button', { name: 'End sessions' }).click();
    await until('their session ended', () =>
      theirs.evaluate(async () => (await fetch('/v1/session')).status === 401),
    );
    await other.close();
    page.once('dialog', (d) => d.accept());
    await row.getByRole('button', { name: 'Delete' }).click();
    await row.waitFor({ state: 'detached' });

    await page.goto(`${env.url}/access/audit?action=user&target=e2e-ada`);
    await page.locator('[data-audit="user.role"] button').click();
    const diff = page.locator('[data-testid=audit-detail] [data-diff=changed]');
    await diff.waitFor();
    const text = await diff.textContent();
    assert(text.includes('viewer') && text.includes('operator'), text);
    await page.click('[data-testid=audit-verify]');
    await page.locator('[data-testid=audit-verdict]').getByText('Whole').waitFor();
  },
);

await steps.step('access: a token is shown once and revoked', async () => {
  await page.goto(`${env.url}/access/tokens`);
  await page.click('[data-testid=token-add]');
  await page.fill('[name=new-token]', 'e2e-token');
  await page.click('[data-testid=token-save]');
  const secret = await page.locator('[data-testid=secret]').inputValue();
  assert(secret.startsWith('twt_'), secret);
  await page.getByRole('button', { name: 'Done' }).click();
  const row = page.locator('[data-token=e2e-token]');
  await row.waitFor();
  assert(!(await page.content()).includes(secret), 'the token is still on the page');
  page.once('dialog', (d) => d.accept());
  await row.getByRole('button', { name: 'Revoke' }).click();
  await row.waitFor({ state: 'detached' });
});

await steps.step('keyboard: g l, g o, ?, and what is unknown is a 404', async () => {
  await page.goto(`${env.url}/cluster`);
  await page.waitForSelector('main');
  await page.keyboard.press('g');
  await page.keyboard.press('l');
  await until('logs', () => new URL(page.url()).pathname === '/logs');
  await page.keyboard.press('g');
  await page.keyboard.press('o');
  await until('overview', () => new URL(page.url()).pathname === '/');
  await page.keyboard.press('?');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.goto(`${env.url}/no/such/page`);
  await page.getByText('404').first().waitFor();
});

await steps.step('logout ends the session', async () => {
  context.expected = [/401/, /WebSocket/];
  await page.goto(`${env.url}/`);
  await page.getByRole('button', { name: 'Account' }).click();
  await page.getByRole('menuitem', { name: 'Log out' }).click();
  await page.waitForSelector('[name=password]');
  const status = await page.evaluate(async () => (await fetch('/v1/session')).status);
  assert(status === 401, `the session answers ${status} after logout`);
});

await steps.step('no console error, CSP violation or request off origin in all of this', async () =>
  expectClean(context, 'faults'),
);
await browser.close();
steps.finish();
