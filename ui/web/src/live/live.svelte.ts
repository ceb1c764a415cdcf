// The page's live connection as reactive state, and the hosts table that several pages share.
import { session } from '../lib/session.svelte';
import type { ClusterState, HostRow } from '../lib/types';
import { alerts } from './alerts.svelte';
import { type LinkStatus, LiveClient, type Subscription } from './client';
import { Failover } from './failover';
import { applyHosts } from './hosts';

const HIDDEN_PAUSE_MS = 60_000;
const MEMBERS_EVERY_MS = 5 * 60_000;

class Live {
  status = $state.raw<LinkStatus>({ state: 'connecting', node: '', lostAt: null, everLive: false, skew: 0 });
  notice = $state.raw<{ code: string; message: string } | null>(null);
  /** The cluster as it was last told; always followed, because fail-over needs to know who is there. */
  cluster = $state.raw<ClusterState | null>(null);
  clusterError = $state('');
  #members: ReturnType<typeof setInterval> | null = null;
  #client: LiveClient | null = null;
  #failover: Failover | null = null;
  #hideTimer: ReturnType<typeof setTimeout> | null = null;

  start(): void {
    if (this.#client) return;
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    this.#client = new LiveClient({
      url: `${scheme}://${location.host}/v1/live`,
      onStatus: (s) => {
        this.status = s;
        this.#failover?.linkChanged(s);
      },
      onNotice: (code, message) => {
        this.notice = { code, message };
      },
      onUnauthorized: () => void session.check(),
    });
    this.#failover = new Failover(() => session.current?.members ?? []);
    this.#failover.start();
    this.#client.start();
    const take = (v: unknown) => {
      this.cluster = v as ClusterState;
      this.clusterError = '';
      this.#failover?.clusterChanged(this.cluster);
    };
    this.#client.sub(
      'cluster',
      {},
      {
        snap: (m) => take(m.v),
        delta: (m) => take(m.v),
        err: (m) => {
          this.clusterError = m.message ?? m.code;
        },
      },
    );
    alerts.follow(this.#client);
    this.#members = setInterval(() => {
      if (this.status.state === 'live') void session.check();
    }, MEMBERS_EVERY_MS);
    document.addEventListener('visibilitychange', this.#visibility);
    addEventListener('online', this.#online);
  }
  stop(): void {
    document.removeEventListener('visibilitychange', this.#visibility);
    removeEventListener('online', this.#online);
    if (this.#hideTimer) clearTimeout(this.#hideTimer);
    if (this.#members) clearInterval(this.#members);
    this.#members = null;
    this.#client?.stop();
    this.#failover?.stop();
    this.#client = null;
    this.#failover = null;
  }
  get client(): LiveClient {
    if (!this.#client) throw new Error('live: used before start');
    return this.#client;
  }
  get running(): boolean {
    return this.#client !== null;
  }
  /** Where this page can be continued on another member, with the resume ticket in the fragment. */
  elsewhere(): { id: string; href: string }[] {
    return this.#failover?.links() ?? [];
  }

  #online = () => this.#client?.nudge();
  #visibility = () => {
    if (this.#hideTimer) clearTimeout(this.#hideTimer);
    if (document.hidden) this.#hideTimer = setTimeout(() => this.#client?.setPaused(true), HIDDEN_PAUSE_MS);
    else {
      this.#client?.setPaused(false);
      this.#client?.nudge();
    }
  };
}

export const live = new Live();

/** The host table; subscribed while at least one component uses it. */
class Hosts {
  rows = $state.raw<HostRow[]>([]);
  loaded = $state(false);
  stepMs = $state(15_000);
  error = $state('');
  #map = new Map<string, HostRow>();
  #users = 0;
  #sub: Subscription | null = null;
  #frozen = false;

  use(): () => void {
    if (this.#users++ === 0) {
      this.#sub = live.client.sub(
        'hosts',
        {},
        {
          snap: (m) => {
            this.#map = new Map();
            applyHosts(this.#map, (m.v as HostRow[] | null) ?? []);
            this.error = '';
            this.loaded = true;
            const first = this.#map.values().next().value;
            if (first?.spark_step_ms) this.stepMs = first.spark_step_ms;
            this.#publish();
          },
          delta: (m) => {
            applyHosts(this.#map, (m.v as HostRow[] | null) ?? [], m.gone);
            this.#publish();
          },
          err: (m) => {
            this.error = m.message ?? m.code;
          },
        },
      );
    }
    let used = true;
    return () => {
      if (!used) return;
      used = false;
      if (--this.#users === 0) {
        this.#sub?.close();
        this.#sub = null;
      }
    };
  }
  byId(id: string): HostRow | undefined {
    return this.rows.find((h) => h.id === id || h.host === id);
  }
  /** With Live off the table stands still; what arrives is kept and shown when it is on again. */
  freeze(on: boolean): void {
    this.#frozen = on;
    if (!on) this.rows = [...this.#map.values()];
  }
  #publish(): void {
    if (!this.#frozen || this.rows.length === 0) this.rows = [...this.#map.values()];
  }
}

export const hosts = new Hosts();
