// One websocket for the whole page. Subscriptions outlive the connection: after a reconnect each is sent again
// with its last cursor, so the server continues from its ring or answers with a new snapshot. No framework here,
// and clock, socket and random source are passed in, so tests run it without waiting.
import { type Delta, type Gap, type ServerMessage, type Snap, SUBPROTOCOL, type SubError } from './protocol';

export type LinkState = 'connecting' | 'live' | 'stale' | 'down';

export interface Handlers {
  snap(m: Snap): void;
  delta(m: Delta): void;
  gap?(m: Gap): void;
  err?(m: SubError): void;
}
export interface Subscription {
  close(): void;
  /** Asks for a fresh snapshot, without a cursor. */
  restart(): void;
}
export interface LinkStatus {
  state: LinkState;
  node: string;
  /** When the socket was lost (ms), null while it is open. */
  lostAt: number | null;
  /** True once a welcome has been seen on this page. */
  everLive: boolean;
  /** Server clock minus ours, ms. */
  skew: number;
}
export interface Socket {
  onopen: (() => void) | null;
  onmessage: ((e: { data: unknown }) => void) | null;
  onclose: ((e: { code: number; reason: string }) => void) | null;
  onerror: (() => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}
export interface ClientOptions {
  url: string;
  onStatus(s: LinkStatus): void;
  onNotice?(code: string, message: string): void;
  /** The server ended the session (close 4401 or 1008). */
  onUnauthorized?(): void;
  make?(url: string, protocol: string): Socket;
  now?(): number;
  random?(): number;
}

export const STALE_AFTER = 12_000;
export const DEAD_AFTER = 25_000;
const RESUB_AFTER = 5000;
const FINAL = new Set(['bad_query', 'bad_params', 'bad_message', 'forbidden', 'unknown_kind']);
const BACKOFF_MIN = 500;
const BACKOFF_MAX = 15_000;

interface Sub {
  id: string;
  kind: string;
  params: Record<string, unknown>;
  handlers: Handlers;
  cursor: string | undefined;
  /** Code of the newest error; decides whether an ended subscription is asked for again. */
  code: string;
  retry: ReturnType<typeof setTimeout> | null;
}

/** Delay before reconnect attempt n (0 = first): doubling from 0.5 s to 15 s, half of it jitter. */
export function backoff(attempt: number, random: number): number {
  const full = Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** attempt);
  return Math.max(BACKOFF_MIN, full / 2 + (full / 2) * random);
}

export class LiveClient {
  readonly #o: Required<Pick<ClientOptions, 'make' | 'now' | 'random'>> & ClientOptions;
  readonly #subs = new Map<string, Sub>();
  #socket: Socket | null = null;
  #open = false;
  #attempt = 0;
  #nextId = 1;
  #epoch: string | undefined;
  #lastMessage = 0;
  #retry: ReturnType<typeof setTimeout> | null = null;
  #watch: ReturnType<typeof setInterval> | null = null;
  #status: LinkStatus = { state: 'connecting', node: '', lostAt: null, everLive: false, skew: 0 };
  #paused = false;

  constructor(o: ClientOptions) {
    this.#o = {
      make: (url, protocol) => new WebSocket(url, protocol) as unknown as Socket,
      now: () => Date.now(),
      random: () => Math.random(),
      ...o,
    };
  }

  start(): void {
    if (this.#watch) return;
    this.#watch = setInterval(() => this.#checkAge(), 1000);
    this.#status.lostAt = this.#o.now();
    this.#connect();
  }
  stop(): void {
    if (this.#watch) clearInterval(this.#watch);
    if (this.#retry) clearTimeout(this.#retry);
    this.#watch = this.#retry = null;
    this.#drop('stop');
  }
  get status(): LinkStatus {
    return this.#status;
  }

  sub(kind: string, params: Record<string, unknown>, handlers: Handlers, cursor?: string): Subscription {
    const sub: Sub = {
      id: `s${this.#nextId++}`,
      kind,
      params,
      handlers,
      cursor,
      code: '',
      retry: null,
    };
    this.#subs.set(sub.id, sub);
    this.#sendSub(sub);
    return {
      close: () => {
        if (sub.retry) clearTimeout(sub.retry);
        if (this.#subs.delete(sub.id)) this.#send({ op: 'unsub', id: sub.id });
      },
      restart: () => {
        if (!this.#subs.has(sub.id)) return;
        this.#send({ op: 'unsub', id: sub.id });
        sub.cursor = undefined;
        this.#again(sub);
      },
    };
  }

  /** Stops and continues all subscriptions; used while the tab is hidden. The server keeps the cursors. */
  setPaused(paused: boolean): void {
    if (this.#paused === paused) return;
    this.#paused = paused;
    for (const sub of this.#subs.values()) {
      this.#send({ op: paused ? 'pause' : 'resume', id: sub.id });
    }
  }
  /** Tries to connect now instead of waiting for the next attempt. */
  nudge(): void {
    if (this.#socket || !this.#watch) return;
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
    this.#connect();
  }

  #connect(): void {
    let socket: Socket;
    try {
      socket = this.#o.make(this.#o.url, SUBPROTOCOL);
    } catch {
      this.#scheduleRetry();
      return;
    }
    this.#socket = socket;
    this.#lastMessage = this.#o.now();
    socket.onopen = () => {
      if (this.#socket !== socket) return;
      this.#open = true;
      this.#lastMessage = this.#o.now();
      this.#send(this.#epoch ? { op: 'hello', epoch: this.#epoch } : { op: 'hello' });
      for (const sub of this.#subs.values()) this.#sendSub(sub);
    };
    socket.onmessage = (e) => {
      if (this.#socket !== socket || typeof e.data !== 'string') return;
      this.#lastMessage = this.#o.now();
      let m: ServerMessage;
      try {
        m = JSON.parse(e.data) as ServerMessage;
      } catch {
        return;
      }
      this.#dispatch(m);
    };
    socket.onclose = (e) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      this.#open = false;
      this.#lost();
      if (e.code === 4401 || e.code === 1008) this.#o.onUnauthorized?.();
      this.#scheduleRetry();
    };
    socket.onerror = () => {};
  }

  #dispatch(m: ServerMessage): void {
    switch (m.op) {
      case 'welcome':
        this.#epoch = m.epoch;
        this.#attempt = 0;
        this.#setStatus({
          state: 'live',
          node: m.node,
          lostAt: null,
          everLive: true,
          skew: m.serverTime - this.#o.now(),
        });
        return;
      case 'tick':
        this.#setStatus({ state: 'live' });
        return;
      case 'notice':
        this.#o.onNotice?.(m.code, m.message ?? '');
        return;
      case 'snap':
      case 'delta': {
        const sub = this.#subs.get(m.id);
        if (!sub) return;
        sub.code = '';
        if (m.cursor) sub.cursor = m.cursor;
        if (m.op === 'snap') sub.handlers.snap(m);
        else sub.handlers.delta(m);
        return;
      }
      case 'gap':
        this.#subs.get(m.id)?.handlers.gap?.(m);
        return;
      case 'err':
        this.#failed(m);
        return;
      case 'end':
        this.#ended(m.id);
        return;
    }
  }

  #failed(m: SubError): void {
    const sub = m.id ? this.#subs.get(m.id) : undefined;
    if (!sub) return;
    sub.code = m.code;
    sub.handlers.err?.(m);
  }
  /** The server gave a subscription up. What the next try may answer is tried again; a bad query is not. */
  #ended(id: string): void {
    const sub = this.#subs.get(id);
    if (!sub || sub.retry || FINAL.has(sub.code)) return;
    sub.retry = setTimeout(() => {
      sub.retry = null;
      if (this.#subs.has(sub.id)) this.#again(sub);
    }, RESUB_AFTER);
  }
  /** Subscribes anew under a new id, so that answers still on their way to the old one fall away. */
  #again(sub: Sub): void {
    this.#subs.delete(sub.id);
    sub.id = `s${this.#nextId++}`;
    this.#subs.set(sub.id, sub);
    this.#sendSub(sub);
  }
  #sendSub(sub: Sub): void {
    const m: Record<string, unknown> = { op: 'sub', id: sub.id, kind: sub.kind, params: sub.params };
    if (sub.cursor !== undefined) m.cursor = sub.cursor;
    this.#send(m);
    if (this.#paused) {
      this.#send({ op: 'pause', id: sub.id });
    }
  }
  #send(m: Record<string, unknown>): void {
    if (!this.#open || !this.#socket) return;
    try {
      this.#socket.send(JSON.stringify(m));
    } catch {
      // A socket that is closing reports it by onclose.
    }
  }
  #checkAge(): void {
    if (!this.#socket) return;
    const age = this.#o.now() - this.#lastMessage;
    if (age >= DEAD_AFTER) {
      this.#drop('silent');
      this.#lost();
      this.#scheduleRetry();
    } else if (age >= STALE_AFTER && this.#status.state === 'live') this.#setStatus({ state: 'stale' });
  }
  #drop(reason: string): void {
    const s = this.#socket;
    this.#socket = null;
    this.#open = false;
    if (!s) return;
    s.onopen = s.onmessage = s.onclose = s.onerror = null;
    try {
      s.close(1000, reason);
    } catch {
      // Already closed.
    }
  }
  #lost(): void {
    this.#setStatus({ state: 'down', lostAt: this.#status.lostAt ?? this.#o.now() });
  }
  #scheduleRetry(): void {
    if (!this.#watch || this.#retry) return;
    this.#retry = setTimeout(
      () => {
        this.#retry = null;
        this.#connect();
      },
      backoff(this.#attempt++, this.#o.random()),
    );
  }
  #setStatus(patch: Partial<LinkStatus>): void {
    this.#status = { ...this.#status, ...patch };
    this.#o.onStatus(this.#status);
  }
}
