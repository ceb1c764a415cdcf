// Fail-over of the page itself (D15): while healthy it holds a single-use resume ticket, good on every member;
// after five seconds without the socket it goes to the same URL on the next member. The ticket travels in the
// fragment, which browsers never send, and is exchanged there for a cookie.
//
// The content security policy lets the page talk to its own origin only, so members cannot be probed. Which of
// them can be reached is known from the state of the cluster that came last.
import { call, position } from '../lib/api';
import type { ClusterState, Member } from '../lib/types';
import type { LinkStatus } from './client';

export const LOST_FOR_MS = 5000;
const TICKET_EVERY_MS = 5 * 60_000;
const TICKET_RETRY_MS = 20_000;
const FRAGMENT = 'resume=';
const POSITION = '&index=';

/** The other members in ring order after the one that serves `origin`; those known to be gone come last. */
export function others(members: Member[], origin: string, gone: ReadonlySet<string> = new Set()): Member[] {
  const clean = members
    .filter((m) => /^https?:\/\//.test(m.url))
    .map((m) => ({ ...m, url: new URL(m.url).origin }));
  const at = clean.findIndex((m) => m.url === origin);
  const ring = at < 0 ? clean : [...clean.slice(at + 1), ...clean.slice(0, at)];
  const rest = ring.filter((m) => m.url !== origin);
  return [...rest.filter((m) => !gone.has(m.id)), ...rest.filter((m) => gone.has(m.id))];
}

/** The same page on another origin, carrying the ticket and how far the log was that this page has seen. */
export function resumeUrl(
  target: string,
  here: { pathname: string; search: string },
  ticket: string,
  index = 0,
): string {
  const carried = ticket ? `#${FRAGMENT}${encodeURIComponent(ticket)}${index ? POSITION + index : ''}` : '';
  return `${target}${here.pathname}${here.search}${carried}`;
}

/** Takes ticket and index out of the address bar; null when there is none. */
export function takeTicket(): { ticket: string; index: number } | null {
  const h = location.hash.replace(/^#/, '');
  if (!h.startsWith(FRAGMENT)) return null;
  history.replaceState(null, '', location.pathname + location.search);
  const [text, index] = h.slice(FRAGMENT.length).split(POSITION);
  try {
    const ticket = decodeURIComponent(text ?? '');
    return ticket ? { ticket, index: Number(index ?? 0) || 0 } : null;
  } catch {
    return null;
  }
}

export class Failover {
  readonly #members: () => Member[];
  readonly #go: (url: string) => void;
  readonly #gone = new Set<string>();
  #ticket = '';
  #ticketTimer: ReturnType<typeof setTimeout> | null = null;
  #lossTimer: ReturnType<typeof setTimeout> | null = null;
  #healthy = false;
  // A session has one ticket: the newest replaces the others, so tabs tell each other.
  #tabs: BroadcastChannel | null = null;

  constructor(members: () => Member[], go: (url: string) => void = (url) => location.replace(url)) {
    this.#members = members;
    this.#go = go;
  }
  start(): void {
    if (typeof BroadcastChannel === 'undefined') return;
    this.#tabs = new BroadcastChannel('triward-ticket');
    this.#tabs.onmessage = (e: MessageEvent<unknown>) => {
      if (typeof e.data === 'string') this.#ticket = e.data;
    };
  }
  stop(): void {
    for (const t of [this.#ticketTimer, this.#lossTimer]) if (t) clearTimeout(t);
    this.#ticketTimer = this.#lossTimer = null;
    this.#tabs?.close();
    this.#tabs = null;
    this.#ticket = '';
    this.#healthy = false;
  }

  linkChanged(s: LinkStatus): void {
    if (s.lostAt === null) {
      this.#healthy = true;
      if (this.#lossTimer) clearTimeout(this.#lossTimer);
      this.#lossTimer = null;
      if (!this.#ticketTimer) this.#renewIn(0);
    } else if (s.everLive) {
      this.#healthy = false;
      if (!this.#lossTimer) this.#lossTimer = setTimeout(() => this.#leave(), LOST_FOR_MS);
    }
  }
  clusterChanged(state: ClusterState | null): void {
    this.#gone.clear();
    for (const n of state?.nodes ?? []) if (n.role === 'unreachable') this.#gone.add(n.id);
  }
  links(): { id: string; href: string }[] {
    return others(this.#members(), location.origin, this.#gone).map((m) => ({
      id: m.id,
      href: resumeUrl(m.url, location, this.#ticket, position.get()),
    }));
  }

  #renewIn(ms: number): void {
    if (this.#ticketTimer) clearTimeout(this.#ticketTimer);
    this.#ticketTimer = setTimeout(() => void this.#renew(), ms);
  }
  async #renew(): Promise<void> {
    let next = TICKET_EVERY_MS;
    if (!this.#healthy) next = TICKET_RETRY_MS;
    else if (others(this.#members(), location.origin).length > 0) {
      try {
        const r = await call<{ ticket: string }>('/v1/session/ticket', { method: 'POST', body: {} });
        this.#ticket = r.ticket;
        this.#tabs?.postMessage(r.ticket);
      } catch {
        next = TICKET_RETRY_MS;
      }
    }
    if (this.#ticketTimer) this.#renewIn(next);
  }
  #leave(): void {
    this.#lossTimer = null;
    if (this.#healthy) return;
    const next = others(this.#members(), location.origin, this.#gone)[0];
    // Without any network another member would not answer either, and the page would be lost.
    if (next && navigator.onLine && !this.#gone.has(next.id)) {
      this.#go(resumeUrl(next.url, location, this.#ticket, position.get()));
      return;
    }
    this.#lossTimer = setTimeout(() => this.#leave(), LOST_FOR_MS);
  }
}
