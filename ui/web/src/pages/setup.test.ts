// @vitest-environment jsdom
import { render, screen } from '@testing-library/svelte';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';

const answer = (status: number, body: unknown) =>
  new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json' } });

/** A busy machine takes its time. */
const PATIENCE = { timeout: 20_000 };

describe('the page of a set-up link', () => {
  let page: typeof import('./Setup.svelte').default;

  beforeAll(async () => {
    vi.stubGlobal('matchMedia', () => ({ matches: false, addEventListener: () => undefined }));
    page = (await import('./Setup.svelte')).default;
  }, 60_000);
  beforeEach(() => {
    vi.stubGlobal('fetch', async (_: string, init: RequestInit) => {
      const { token } = JSON.parse(String(init.body)) as { token: string };
      return token === 'tws_new'
        ? answer(200, { user: 'ada', role: 'viewer', expires: 1 })
        : answer(401, { detail: 'the set-up link was used already' });
    });
  });
  afterEach(() => {
    vi.unstubAllGlobals();
    location.hash = '';
  });

  it('takes another link that is opened in the same tab', async () => {
    location.hash = '#tws_old';
    render(page);
    await screen.findByText(/used already/, {}, PATIENCE);
    location.hash = '#tws_new';
    await screen.findByText(/ada/, {}, PATIENCE);
    expect(screen.queryByText(/used already/)).toBeNull();
  }, 60_000);
});
