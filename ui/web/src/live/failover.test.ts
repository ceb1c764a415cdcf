// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { position } from '../lib/api';
import type { LinkStatus } from './client';
import { Failover, LOST_FOR_MS, others, resumeUrl, takeTicket } from './failover';

const here = location.origin;
const members = [
  { id: 'n1', url: here },
  { id: 'n2', url: 'https://n2.example:8443/' },
  { id: 'n3', url: 'https://n3.example:8443' },
];
const up: LinkStatus = { state: 'live', node: 'n1', lostAt: null, everLive: true, skew: 0 };
const down: LinkStatus = { ...up, state: 'down', lostAt: 1 };

describe('others', () => {
  it('goes round the ring and puts those known to be gone last', () => {
    expect(others(members, here).map((m) => m.id)).toEqual(['n2', 'n3']);
    expect(others(members, 'https://n2.example:8443').map((m) => m.id)).toEqual(['n3', 'n1']);
    expect(others(members, here, new Set(['n2'])).map((m) => m.id)).toEqual(['n3', 'n2']);
    expect(others([{ id: 'x', url: 'javascript:alert(1)' }], here)).toEqual([]);
  });
});

describe('ticket in the address', () => {
  it('travels in the fragment and is taken out of it', () => {
    const url = resumeUrl('https://n2.example', { pathname: '/hosts/a', search: '?range=6h' }, 'a b/c');
    expect(url).toBe('https://n2.example/hosts/a?range=6h#resume=a%20b%2Fc');
    history.replaceState(null, '', '/hosts/a?range=6h#resume=a%20b%2Fc');
    expect(takeTicket()).toEqual({ ticket: 'a b/c', index: 0 });
    expect(location.hash).toBe('');
    expect(location.search).toBe('?range=6h');
    expect(takeTicket()).toBeNull();
  });
  it('carries how far the log was that the page has seen', () => {
    const url = resumeUrl('https://n2.example', { pathname: '/', search: '' }, 'T', 4711);
    expect(url).toBe('https://n2.example/#resume=T&index=4711');
    for (const [hash, index] of [
      ['#resume=T&index=4711', 4711],
      ['#resume=T&index=x', 0],
    ] as const) {
      history.replaceState(null, '', `/${hash}`);
      expect(takeTicket()).toEqual({ ticket: 'T', index });
    }
  });
});

describe('Failover', () => {
  let went: string[] = [];
  let f: Failover;
  beforeEach(() => {
    vi.useFakeTimers();
    vi.stubGlobal('fetch', async () => new Response(JSON.stringify({ ticket: 'T' }), { status: 200 }));
    history.replaceState(null, '', '/logs?q=x');
    went = [];
    f = new Failover(
      () => members,
      (url) => went.push(url),
    );
    f.start();
  });
  afterEach(() => {
    f.stop();
    vi.unstubAllGlobals();
    vi.useRealTimers();
  });

  it('goes to the next member with a ticket after five seconds of loss', async () => {
    f.linkChanged(up);
    await vi.advanceTimersByTimeAsync(100);
    f.linkChanged(down);
    await vi.advanceTimersByTimeAsync(LOST_FOR_MS - 200);
    expect(went).toEqual([]);
    await vi.advanceTimersByTimeAsync(400);
    expect(went).toEqual(['https://n2.example:8443/logs?q=x#resume=T']);
  });
  it('takes along what the answers said of the log', async () => {
    position.atLeast(12);
    f.linkChanged(up);
    await vi.advanceTimersByTimeAsync(100);
    f.linkChanged(down);
    await vi.advanceTimersByTimeAsync(LOST_FOR_MS + 100);
    position.forget();
    expect(went).toEqual(['https://n2.example:8443/logs?q=x#resume=T&index=12']);
  });
  it('stays when the connection comes back in time', async () => {
    f.linkChanged(up);
    f.linkChanged(down);
    await vi.advanceTimersByTimeAsync(3000);
    f.linkChanged(up);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(went).toEqual([]);
  });
  it('passes over a member that the cluster cannot reach', async () => {
    f.linkChanged(up);
    await vi.advanceTimersByTimeAsync(100);
    const node = (id: string, role: 'leader' | 'unreachable') => ({
      id,
      role,
      url: '',
      peer: '',
      voter: true,
    });
    f.clusterChanged({
      id: '',
      leader: 'n1',
      term: 1,
      tolerates: 0,
      nodes: [node('n1', 'leader'), node('n2', 'unreachable')],
    });
    f.linkChanged(down);
    await vi.advanceTimersByTimeAsync(LOST_FOR_MS + 100);
    expect(went[0]).toContain('https://n3.example:8443/');
  });
  it('does not leave without a network', async () => {
    vi.spyOn(navigator, 'onLine', 'get').mockReturnValue(false);
    f.linkChanged(up);
    f.linkChanged(down);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(went).toEqual([]);
  });
  it('does not leave a page that never was live', async () => {
    f.linkChanged({ ...down, everLive: false });
    await vi.advanceTimersByTimeAsync(30_000);
    expect(went).toEqual([]);
  });
});
