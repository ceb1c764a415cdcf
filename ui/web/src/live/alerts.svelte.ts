// The alerts that are not over, as the live socket tells them. Always followed: the top bar counts what fires.
import { type Alert, sortAlerts } from '../lib/alerts';
import type { LiveClient } from './client';

class Alerts {
  list = $state.raw<Alert[]>([]);
  loaded = $state(false);
  error = $state('');
  #map = new Map<string, Alert>();

  follow(client: LiveClient): void {
    const take = (rows: unknown, gone: string[] = []) => {
      for (const id of gone) this.#map.delete(id);
      for (const a of (rows as Alert[] | null) ?? []) this.#map.set(a.id, a);
      this.list = sortAlerts([...this.#map.values()]);
      this.loaded = true;
      this.error = '';
    };
    client.sub(
      'alerts',
      {},
      {
        snap: (m) => {
          this.#map = new Map();
          take(m.v);
        },
        delta: (m) => take(m.v, m.gone),
        err: (m) => {
          this.error = m.message ?? m.code;
        },
      },
    );
  }
  /** What fires and nobody took in hand or muted. */
  get firing(): number {
    return this.list.filter((a) => a.state === 'firing').length;
  }
}

export const alerts = new Alerts();
