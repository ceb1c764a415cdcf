import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { backoff, DEAD_AFTER, type LinkStatus, LiveClient, type Socket, STALE_AFTER } from './client';
import type { Delta, Snap } from './protocol';

class FakeSocket implements Socket {
  onopen: (() => void) | null = null;
  onmessage: ((e: { data: unknown }) => void) | null = null;
  onclose: ((e: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  sent: Record<string, unknown>[] = [];
  closed = false;
  send(data: string): void {
    this.sent.push(JSON.parse(data) as Record<string, unknown>);
  }
  close(): void {
    this.closed = true;
  }
  open(node = 'n1'): void {
    this.onopen?.();
    this.say({ op: 'welcome', epoch: 'e1', node, serverTime: Date.now() });
  }
  say(m: unknown): void {
    this.onmessage?.({ data: JSON.stringify(m) });
  }
  lose(code = 1006): void {
    this.onclose?.({ code, reason: '' });
  }
  ops(op: string): Record<string, unknown>[] {
    return this.sent.filter((m) => m.op === op);
  }
}

let sockets: FakeSocket[] = [];
let states: LinkStatus[] = [];
let client: LiveClient;
const latest = () => sockets.at(-1)!;

beforeEach(() => {
  vi.useFakeTimers();
  sockets = [];
  states = [];
  client = new LiveClient({
    url: 'wss://n1/v1/live',
    onStatus: (s) => states.push(s),
    make: () => {
      const s = new FakeSocket();
      sockets.push(s);
      return s;
    },
    random: () => 0,
  });
  client.start();
});
afterEach(() => {
  client.stop();
  vi.useRealTimers();
});

function watch() {
  const got: (Snap | Delta)[] = [];
  const errors: string[] = [];
  const sub = client.sub(
    'promql',
    { query: 'up' },
    {
      snap: (m) => got.push(m),
      delta: (m) => got.push(m),
      err: (m) => errors.push(m.code),
    },
  );
  return { got, errors, sub };
}

describe('backoff', () => {
  it('doubles from half a second to fifteen with jitter inside', () => {
    expect(backoff(0, 0)).toBe(500);
    expect(backoff(3, 1)).toBe(4000);
    expect(backoff(3, 0)).toBe(2000);
    expect(backoff(50, 1)).toBe(15_000);
    expect(backoff(50, 0)).toBe(7500);
  });
});

describe('LiveClient', () => {
  it('says hello, subscribes what was asked before the connection stood, and is live after the welcome', () => {
    const w = watch();
    expect(latest().sent).toEqual([]);
    latest().open();
    expect(latest().sent[0]).toEqual({ op: 'hello' });
    expect(latest().ops('sub')).toEqual([{ op: 'sub', id: 's1', kind: 'promql', params: { query: 'up' } }]);
    expect(client.status.state).toBe('live');
    expect(client.status.node).toBe('n1');
    latest().say({ op: 'snap', id: 's1', seq: 1, v: [], cursor: '10' });
    latest().say({ op: 'delta', id: 'other', seq: 1, v: [] });
    expect(w.got).toHaveLength(1);
  });

  it('resumes with the newest cursor after a loss', () => {
    watch();
    latest().open();
    latest().say({ op: 'snap', id: 's1', seq: 1, v: [], cursor: '10' });
    latest().say({ op: 'delta', id: 's1', seq: 2, t: 20, v: [], cursor: '20' });
    latest().lose();
    expect(client.status.state).toBe('down');
    expect(client.status.lostAt).not.toBeNull();
    vi.advanceTimersByTime(500);
    expect(sockets).toHaveLength(2);
    latest().open('n2');
    expect(latest().sent[0]).toEqual({ op: 'hello', epoch: 'e1' });
    expect(latest().ops('sub')[0]).toMatchObject({ id: 's1', cursor: '20' });
    expect(client.status).toMatchObject({ state: 'live', node: 'n2', lostAt: null });
  });

  it('keeps the moment of the loss over failed attempts', () => {
    latest().open();
    latest().lose();
    const at = client.status.lostAt;
    vi.advanceTimersByTime(500);
    latest().lose();
    expect(client.status.lostAt).toBe(at);
  });

  it('is stale after twelve silent seconds, live again by a tick, and lost after twenty-five', () => {
    latest().open();
    vi.advanceTimersByTime(STALE_AFTER + 1000);
    expect(client.status.state).toBe('stale');
    latest().say({ op: 'tick', t: 1 });
    expect(client.status.state).toBe('live');
    const old = latest();
    vi.advanceTimersByTime(DEAD_AFTER + 1000);
    expect(old.closed).toBe(true);
    expect(client.status.state).not.toBe('live');
    expect(sockets.length).toBeGreaterThan(1);
  });

  it('does not hear a closed subscription and tells the server', () => {
    const w = watch();
    latest().open();
    w.sub.close();
    latest().say({ op: 'snap', id: 's1', seq: 1, v: [] });
    expect(w.got).toHaveLength(0);
    expect(latest().ops('unsub')).toEqual([{ op: 'unsub', id: 's1' }]);
  });

  it('restarts without a cursor under a new id', () => {
    const w = watch();
    latest().open();
    latest().say({ op: 'snap', id: 's1', seq: 1, v: [], cursor: '10' });
    w.sub.restart();
    expect(latest().ops('sub').at(-1)).toEqual({
      op: 'sub',
      id: 's2',
      kind: 'promql',
      params: { query: 'up' },
    });
    latest().say({ op: 'delta', id: 's1', seq: 2, t: 1, v: [] });
    expect(w.got).toHaveLength(1);
  });

  it('tries an ended subscription again when the reason may pass, not after a bad query', () => {
    const a = watch();
    latest().open();
    latest().say({ op: 'err', id: 's1', code: 'unavailable', message: 'no' });
    latest().say({ op: 'end', id: 's1' });
    vi.advanceTimersByTime(6000);
    expect(latest().ops('sub')).toHaveLength(2);
    latest().say({ op: 'err', id: 's2', code: 'bad_query', pos: 3, message: 'no' });
    latest().say({ op: 'end', id: 's2' });
    vi.advanceTimersByTime(10_000);
    expect(latest().ops('sub')).toHaveLength(2);
    expect(a.errors).toEqual(['unavailable', 'bad_query']);
  });

  it('pauses and resumes everything, also what is subscribed meanwhile', () => {
    watch();
    latest().open();
    client.setPaused(true);
    watch();
    expect(
      latest()
        .ops('pause')
        .map((m) => m.id),
    ).toEqual(['s1', 's2']);
    client.setPaused(false);
    expect(
      latest()
        .ops('resume')
        .map((m) => m.id),
    ).toEqual(['s1', 's2']);
  });

  it('survives what is not JSON', () => {
    latest().open();
    latest().onmessage?.({ data: '{' });
    latest().onmessage?.({ data: new ArrayBuffer(2) });
    expect(client.status.state).toBe('live');
  });
});
