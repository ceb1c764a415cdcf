import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ApiError, call, position } from './api';

describe('position in the log', () => {
  let asked: string[] = [];
  let index: string | null = null;
  let status = 200;
  beforeEach(() => {
    asked = [];
    index = null;
    status = 200;
    position.forget();
    vi.stubGlobal('fetch', async (url: string) => {
      asked.push(url);
      const headers: Record<string, string> = index === null ? {} : { 'X-Triward-Index': index };
      return new Response('{}', { status, headers });
    });
  });
  afterEach(() => vi.unstubAllGlobals());

  it('asks reads for at least the highest index that an answer told', async () => {
    index = '40';
    await call('/v1/hosts');
    index = '30';
    await call('/v1/logs/query', { query: { query: 'x' } });
    index = null;
    await call('/v1/agents/a1');
    expect(asked).toEqual(['/v1/hosts', '/v1/logs/query?query=x&min_index=40', '/v1/agents/a1?min_index=40']);
  });
  it('puts it into the URL of a form for the API of Prometheus', async () => {
    position.atLeast(7);
    await call('/api/v1/query_range', { method: 'POST', form: { query: 'up' } });
    expect(asked).toEqual(['/api/v1/query_range?min_index=7']);
  });
  it('leaves writes, session and cluster without it', async () => {
    position.atLeast(7);
    await call('/v1/session/ticket', { method: 'POST', body: {} });
    await call('/v1/session');
    await call('/v1/cluster');
    await call('/v1/tokens/join', { body: { kind: 'agent' } });
    expect(asked.join(' ')).not.toContain('min_index');
  });
  it('learns from writes and from errors too', async () => {
    index = '9';
    await call('/v1/tokens/join', { body: { kind: 'agent' } });
    index = '11';
    status = 504;
    await expect(call('/v1/hosts')).rejects.toBeInstanceOf(ApiError);
    expect(position.get()).toBe(11);
    index = 'x';
    await expect(call('/v1/hosts')).rejects.toBeInstanceOf(ApiError);
    expect(position.get()).toBe(11);
  });
});
