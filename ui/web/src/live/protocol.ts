// Messages of the live socket, subprotocol triward.v1.json.

export const SUBPROTOCOL = 'triward.v1.json';

export interface Snap {
  op: 'snap';
  id: string;
  seq: number;
  t0?: number;
  step?: number;
  series?: unknown;
  v: unknown;
  cursor?: string;
  /** Of a tail: why its first lines may not be all that there are. */
  lacks?: 'damaged' | 'time';
}
export interface Delta {
  op: 'delta';
  id: string;
  seq: number;
  t?: number;
  v: unknown;
  series?: unknown;
  gone?: string[];
  sampled?: number;
  cursor?: string;
}
export interface Gap {
  op: 'gap';
  id: string;
  from?: number | string;
  to?: number | string;
  dropped?: number;
}
export interface SubError {
  op: 'err';
  id?: string;
  code: string;
  pos?: number;
  message?: string;
}
export type ServerMessage =
  | { op: 'welcome'; epoch: string; node: string; serverTime: number }
  | Snap
  | Delta
  | Gap
  | SubError
  | { op: 'end'; id: string }
  | { op: 'notice'; code: string; message?: string }
  | { op: 'tick'; t: number };
