// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ApiError, call, messageOf, position } from './api';

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
    await call('/loki/api/v1/query_range');
    expect(asked).toEqual([
      '/v1/hosts',
      '/v1/logs/query?query=x&min_index=40',
      '/v1/agents/a1?min_index=40',
      '/loki/api/v1/query_range?min_index=40',
    ]);
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

describe('errors', () => {
  afterEach(() => vi.unstubAllGlobals());
  const answer = async (body: string, type: string) => {
    vi.stubGlobal(
      'fetch',
      async () =>
        new Response(body, { status: 400, statusText: 'Bad Request', headers: { 'Content-Type': type } }),
    );
    return call('/loki/api/v1/query_range').catch(messageOf);
  };
  it('are problem documents, or plain text as from the API of Loki', async () => {
    expect(await answer('{"detail":"no such host"}', 'application/problem+json')).toBe('no such host');
    expect(await answer('parse error at line 1, col 2: no\n', 'text/plain; charset=utf-8')).toBe(
      'parse error at line 1, col 2: no',
    );
    expect(await answer('<html>502</html>', 'text/html')).toBe('400 Bad Request');
    expect(await answer('', 'text/plain')).toBe('400 Bad Request');
  });
});
