import { describe, expect, it } from 'vitest';
import { type Agent, filterAgents, levelOfAgent, skewLevel, sortAgents, span, spoolLevel } from './agents';

const agent = (over: Partial<Agent>): Agent => ({
  agent_id: 'a',
  hostname: 'h',
  created_at: 1,
  state: 'up',
  series: 1,
  config: { drift: 'current', wanted_version: 1, version: 1 },
  ...over,
});
const drift = (d: Agent['config']['drift']) => ({ config: { drift: d, wanted_version: 2, version: 1 } });

describe('agents', () => {
  it('are judged by their worst part, and silent ones by that alone', () => {
    expect(levelOfAgent(agent({}))).toBe('ok');
    expect(levelOfAgent(agent(drift('own')))).toBe('ok');
    expect(levelOfAgent(agent(drift('refused')))).toBe('critical');
    expect(levelOfAgent(agent(drift('pending')))).toBe('warning');
    expect(levelOfAgent(agent({ ...drift('pending'), clock_offset_ms: -90_000 }))).toBe('critical');
    expect(levelOfAgent(agent({ lag_ms: 70_000 }))).toBe('warning');
    expect(levelOfAgent(agent({ spool_bytes: 95, spool_limit: 100 }))).toBe('critical');
    expect(levelOfAgent(agent({ state: 'down', ...drift('refused') }))).toBe('critical');
    expect(levelOfAgent(agent({ state: 'new', ...drift('unknown') }))).toBe('unknown');
    expect(levelOfAgent(agent({ revoked: true, state: 'down' }))).toBe('unknown');
  });
  it('knows that what is not said is not fine', () => {
    expect(skewLevel(undefined)).toBe('unknown');
    expect(spoolLevel(agent({}))).toBe('unknown');
    expect(span(undefined)).toBe('-');
  });
  it('are shown the worst first, revoked ones last', () => {
    const list = [
      agent({ agent_id: '1', hostname: 'b' }),
      agent({ agent_id: '2', hostname: 'z', revoked: true }),
      agent({ agent_id: '3', hostname: 'c', state: 'down' }),
      agent({ agent_id: '4', hostname: 'a' }),
    ];
    expect(sortAgents(list).map((a) => a.agent_id)).toEqual(['3', '4', '1', '2']);
  });
  it('are filtered by text, group and drift', () => {
    const list = [
      agent({ agent_id: '1', hostname: 'web-1', group: 'web', ips: ['10.1.0.7'] }),
      agent({ agent_id: '2', hostname: 'db-1', ...drift('refused') }),
      agent({ agent_id: '3', hostname: 'old', revoked: true }),
    ];
    const none = { text: '', group: '', drift: '', revoked: false };
    const ids = (f: Partial<typeof none>) => filterAgents(list, { ...none, ...f }).map((a) => a.agent_id);
    expect(ids({})).toEqual(['1', '2']);
    expect(ids({ revoked: true })).toEqual(['1', '2', '3']);
    expect(ids({ text: '10.1' })).toEqual(['1']);
    expect(ids({ group: 'default' })).toEqual(['2']);
    expect(ids({ drift: 'refused' })).toEqual(['2']);
  });
  it('writes spans short and keeps the sign', () => {
    expect([-3, 340, -12_000, 300_000, 7_300_000].map(span)).toEqual([
      '0 s',
      '0.3 s',
      '−12 s',
      '5 min',
      '2 h',
    ]);
  });
});
