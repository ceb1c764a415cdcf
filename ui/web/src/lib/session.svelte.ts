// Who is logged in, and which members the cluster has.
import { takeTicket } from '../live/failover';
import { ApiError, call, onUnauthorized, position } from './api';
import type { Session } from './types';

const RESUME_FOR_MS = 20_000;
const RESUME_EVERY_MS = 800;

class SessionStore {
  current = $state.raw<Session | null>(null);
  /** False until the first answer, so that nothing flashes. */
  known = $state(false);
  unreachable = $state(false);

  async boot(): Promise<void> {
    onUnauthorized.handler = () => {
      this.current = null;
      this.known = true;
    };
    const taken = takeTicket();
    if (taken) {
      position.atLeast(taken.index);
      await this.#resume(taken.ticket);
    }
    await this.check();
  }
  /**
   * Exchanges the ticket. The member that was lost may have been the leader, so the exchange is tried again while
   * a new one is elected. A refused ticket may have been used by another tab just now, whose cookie is then ours.
   */
  async #resume(ticket: string): Promise<void> {
    const end = Date.now() + RESUME_FOR_MS;
    let refused = 0;
    for (;;) {
      try {
        await call('/v1/session/resume', { body: { ticket }, anonymous: true });
        return;
      } catch (e) {
        const final = e instanceof ApiError && e.status >= 400 && e.status < 500 && e.status !== 429;
        if (final && ++refused > 2) return;
        if (final) {
          await this.check();
          if (this.current) return;
        }
        if (Date.now() > end) return;
        await new Promise((r) => setTimeout(r, RESUME_EVERY_MS));
      }
    }
  }
  async check(): Promise<void> {
    try {
      this.current = await call<Session>('/v1/session', { anonymous: true });
      this.unreachable = false;
    } catch (e) {
      if (e instanceof ApiError && e.status === 401) this.current = null;
      this.unreachable = !(e instanceof ApiError && e.status === 401);
    }
    this.known = true;
  }
  async login(user: string, password: string): Promise<void> {
    await call('/v1/login', { body: { user, password }, anonymous: true });
    position.forget();
    await this.check();
  }
  async logout(): Promise<void> {
    try {
      await call('/v1/logout', { method: 'POST', body: {}, anonymous: true });
    } finally {
      this.current = null;
    }
  }
}

export const session = new SessionStore();

const RANK: Record<string, number> = { viewer: 1, operator: 2, administrator: 3, auditor: 1 };
/** Whether the role lets its bearer change things; the server decides, this only hides what it would refuse. */
export function may(what: 'operate' | 'administer' | 'audit'): boolean {
  if (what === 'audit') return ['administrator', 'auditor'].includes(session.current?.role ?? '');
  return (RANK[session.current?.role ?? ''] ?? 0) >= (what === 'operate' ? 2 : 3);
}
