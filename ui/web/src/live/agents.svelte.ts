// The agents as the live socket tells them; followed while a component uses them.
import { type Agent, sortAgents } from '../lib/agents';
import type { Subscription } from './client';
import { live } from './live.svelte';

class Agents {
  list = $state.raw<Agent[]>([]);
  loaded = $state(false);
  error = $state('');
  #map = new Map<string, Agent>();
  #users = 0;
  #sub: Subscription | null = null;

  use(): () => void {
    if (this.#users++ === 0) {
      const take = (rows: unknown, gone: string[] = []) => {
        for (const id of gone) this.#map.delete(id);
        for (const a of (rows as Agent[] | null) ?? []) this.#map.set(a.agent_id, a);
        this.list = sortAgents([...this.#map.values()]);
        this.loaded = true;
        this.error = '';
      };
      this.#sub = live.client.sub(
        'agents',
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
    return () => {
      if (--this.#users === 0) {
        this.#sub?.close();
        this.#sub = null;
        this.loaded = false;
      }
    };
  }
}

export const agents = new Agents();
