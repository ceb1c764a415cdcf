// From an installed cluster without any agent to the first alert that somebody took in hand: log in, enrol an agent and
// see its host, say who is told, write a rule in the editor, see it fire, assign and acknowledge it, find the message,
// see it end. TRIWARD_URL, TRIWARD_USER, TRIWARD_PASSWORD, TRIWARD_AGENT_URL (of a node, for agents), TRIWARD_BIN (the
// folder with triward-agent) and TRIWARD_DIR (a folder of its own). The cluster must let messages go to this machine
// (triward dev --loopback-receivers).
import { execFile, spawn } from 'node:child_process';
import { appendFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { promisify } from 'node:util';
import { assert, env, launch, newContext, newPage, requireServer, Steps, until } from './lib.mjs';

requireServer();
const dir = process.env.TRIWARD_DIR;
const agent = `${process.env.TRIWARD_BIN}/triward-agent`;
const began = Date.now();
const steps = new Steps();
steps.stopAtFirst = true; // each step goes on from the one before

// Who is told: two webhooks of Alertmanager's form.
const told = [];
const sink = createServer((req, res) => {
  let body = '';
  req.on('data', (b) => {
    body += b;
  });
  req.on('end', () => {
    told.push({ to: req.url, key: req.headers['x-triward-dedup-key'], ...JSON.parse(body) });
    res.end();
  });
});
await new Promise((done) => sink.listen(0, '127.0.0.1', done));
const sinkURL = `http://127.0.0.1:${sink.address().port}`;
const messages = (to, status) =>
  told.filter((m) => m.to === to && m.status === status && m.alerts[0]?.labels.alertname === 'DoorForced');

const browser = await launch();
const context = await newContext(browser);
context.expected = [/401/];
const page = await newPage(context);
let child;
const log = `${dir}/door.log`;

await steps.step('log in; nobody watches yet', async () => {
  await page.goto(`${env.url}/`);
  await page.fill('[name=username]', env.user);
  await page.fill('[name=password]', env.password);
  await page.getByRole('button', { name: 'Sign in', exact: true }).click();
  await page.waitForSelector('[data-testid=link][data-state-link=live]');
  context.expected = [];
  assert((await page.locator('[data-host]').count()) === 0, 'there is a host already');
});

await steps.step('enrol an agent with a token made here, and see its host come up', async () => {
  const token = await page.evaluate(async () => {
    const answer = await fetch('/v1/tokens/join', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ kind: 'agent' }),
    });
    return (await answer.json()).token;
  });
  assert(token, 'no token');
  await writeFile(log, '');
  await writeFile(
    `${dir}/agent.yaml`,
    JSON.stringify({
      data_dir: `${dir}/agent`,
      status: { listen: '127.0.0.1:0' },
      metrics: { period: '2s' },
      journal: { enabled: 'false' },
      logs: { files: [{ include: [log] }] },
    }),
  );
  await promisify(execFile)(
    agent,
    ['enroll', '--config', `${dir}/agent.yaml`, '--url', process.env.TRIWARD_AGENT_URL],
    { env: { ...process.env, TRIWARD_TOKEN: token } },
  );
  child = spawn(agent, ['run', '--config', `${dir}/agent.yaml`], { stdio: 'ignore' });
  await page.locator('[data-host]').first().waitFor({ timeout: 60_000 });
});

await steps.step('say who is told, and send a test message', async () => {
  await page.goto(`${env.url}/alerts/routes`);
  const text = page.getByTestId('routes');
  await text.waitFor();
  await text.fill(`route:
  receiver: ops
  group_by: [alertname]
  group_wait: 0s
  group_interval: 1s
  escalate: {after: 1m, receiver: boss}
receivers:
  - name: ops
    webhook_configs: [{url: "${sinkURL}/ops"}]
  - name: boss
    webhook_configs: [{url: "${sinkURL}/boss"}]
`);
  await page.getByRole('button', { name: 'Apply' }).click();
  await page.getByText('Saved').waitFor();
  await page.getByRole('button', { name: 'Send a test message' }).first().click();
  await page.getByText('webhook/0: taken').waitFor();
  await until('the test message', () => told.some((m) => m.to === '/ops'));
});

await steps.step('write a rule: what is wrong is named with its line, then it is applied', async () => {
  await page.goto(`${env.url}/alerts/rules?new=1`);
  const editor = page.getByTestId('rule-editor');
  await editor.getByLabel('Name of the file').fill('doors');
  const rule = (window) => `triward:
  - name: doors
    interval: 1s
    rules:
      - alert: DoorForced
        logs: {query: "door forced", window: ${window}, by: host, above: 0}
        labels: {severity: critical}
        annotations: {summary: "{{ $labels.host }}: a door was forced"}
groups:
  - name: recorded
    interval: 5s
    rules:
      - {record: "host:node_load1:max", expr: max by (host) (node_load1)}
`;
  await editor.getByLabel('Rules as YAML').fill(rule('never'));
  await editor.getByRole('button', { name: 'Check', exact: true }).click();
  await editor.getByText('Line 6', { exact: false }).waitFor();
  await editor.getByLabel('Rules as YAML').fill(rule('30s'));
  await editor.getByRole('button', { name: 'Apply' }).click();
  await page.locator('[data-rules=doors]').getByText('DoorForced').waitFor();
  await page.locator('[data-rules=doors]').getByText('host:node_load1:max').waitFor();
});

await steps.step('the alert fires on the page, and its message is there', async () => {
  await page.goto(`${env.url}/alerts`);
  await page.getByTestId('alerts-none').or(page.getByTestId('alerts')).first().waitFor();
  await appendFile(log, 'door forced at gate 7\n');
  await page
    .locator('[data-alert][data-state=firing]', { hasText: 'DoorForced' })
    .waitFor({ timeout: 60_000 });
  await until('the message', () => messages('/ops', 'firing').length === 1, 20_000);
});

await steps.step('assign it, acknowledge it', async () => {
  await page.locator('[data-alert]', { hasText: 'DoorForced' }).click();
  const detail = page.getByTestId('alert-detail');
  await detail.getByTestId('assign').click();
  const form = detail.getByTestId('assign-form');
  await form.locator(`option[value="${env.user}"]`).waitFor({ state: 'attached' });
  await form.getByRole('combobox').selectOption(env.user);
  await form.getByRole('button', { name: 'Assign', exact: true }).click();
  await detail.getByTestId('assigned').waitFor();
  await detail.getByPlaceholder(/What is done/).fill('somebody is on the way');
  await detail.getByTestId('ack').click();
  await page.locator('[data-alert][data-state=acknowledged]', { hasText: 'DoorForced' }).waitFor();
  await detail.getByText(`Acknowledged by ${env.user}`, { exact: false }).first().waitFor();
  console.log(
    `# from the login to the first alert acknowledged: ${((Date.now() - began) / 1000).toFixed(1)} s`,
  );
});

await steps.step('what the recording rule gives can be asked for', async () => {
  await until(
    'a recorded value',
    async () =>
      page.evaluate(async () => {
        const answer = await (
          await fetch(`/api/v1/query?query=${encodeURIComponent('host:node_load1:max')}`)
        ).json();
        return answer.data.result.length === 1;
      }),
    30_000,
  );
});

await steps.step('it ends, which is told once; nobody was escalated to', async () => {
  await page
    .locator('[data-alert]', { hasText: 'DoorForced' })
    .waitFor({ state: 'detached', timeout: 120_000 });
  await until('the message of the end', () => messages('/ops', 'resolved').length > 0, 20_000);
  assert(
    messages('/ops', 'firing').length === 1,
    `${messages('/ops', 'firing').length} messages that it fires`,
  );
  assert(messages('/ops', 'resolved').length === 1, 'its end was told more than once');
  assert(messages('/boss', 'firing').length === 0, 'it escalated although it was acknowledged');
  await page.goto(`${env.url}/alerts/history`);
  for (const what of ['Fired', 'Assigned', 'Acknowledged', 'Resolved', 'Message sent'])
    await page.getByTestId('alert-history').getByRole('cell', { name: what, exact: true }).first().waitFor();
});

await steps.step('no console error, CSP violation or request off origin in all of this', async () =>
  assert(context.faults.length === 0, context.faults.join('\n  ')),
);
child?.kill();
sink.close();
await browser.close();
steps.finish();
