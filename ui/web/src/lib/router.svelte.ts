// The History router. The URL is the state of the page: path segments name the page, the query string holds
// everything a link must restore. Components read `router`, change it only through `go` and `setQuery`.

export type QueryPatch = Record<string, string | string[] | null | undefined>;

class Router {
  #url = $state.raw(new URL(location.href));

  get path(): string {
    return this.#url.pathname;
  }
  get segments(): string[] {
    return this.#url.pathname.split('/').filter(Boolean).map(safeDecode);
  }
  get search(): string {
    return this.#url.search;
  }
  q(name: string): string | null {
    return this.#url.searchParams.get(name);
  }
  qAll(name: string): string[] {
    return this.#url.searchParams.getAll(name);
  }

  go(to: string, replace = false): void {
    const next = new URL(to, location.origin);
    if (next.origin !== location.origin) return;
    if (next.href === location.href) return;
    history[replace ? 'replaceState' : 'pushState'](null, '', next);
    this.#url = next;
  }
  /** Sets or (with null or an empty string) removes parameters of the current URL. */
  setQuery(patch: QueryPatch, replace = false): void {
    this.go(this.with(patch), replace);
  }
  /** The current URL with parameters changed, as a relative reference. */
  with(patch: QueryPatch): string {
    const next = new URL(this.#url);
    applyPatch(next.searchParams, patch);
    return next.pathname + next.search;
  }
  sync(): void {
    this.#url = new URL(location.href);
  }
}

function safeDecode(s: string): string {
  try {
    return decodeURIComponent(s);
  } catch {
    return s;
  }
}

export function applyPatch(params: URLSearchParams, patch: QueryPatch): void {
  for (const [key, value] of Object.entries(patch)) {
    params.delete(key);
    if (Array.isArray(value)) for (const v of value) params.append(key, v);
    else if (value != null && value !== '') params.set(key, value);
  }
}

export const router = new Router();

// What travels along when one goes from page to page: the time range.
const CARRIED = ['range', 'from', 'to', 'live'];

/** A link to another page that keeps the global time range. */
export function link(path: string, query: QueryPatch = {}): string {
  const params = new URLSearchParams();
  for (const key of CARRIED) {
    const v = router.q(key);
    if (v) params.set(key, v);
  }
  applyPatch(params, query);
  const s = params.toString();
  return s ? `${path}?${s}` : path;
}

/** Listens for back, forward and clicks on our own links. Returns the undo. */
export function installRouter(): () => void {
  const pop = () => router.sync();
  const click = (e: MouseEvent) => {
    if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
    const a = (e.target as Element | null)?.closest?.('a[href]') as HTMLAnchorElement | null;
    if (!a || a.target || a.hasAttribute('download') || a.origin !== location.origin) return;
    if (a.hash && a.pathname === location.pathname && a.search === location.search) return;
    e.preventDefault();
    router.go(a.href);
  };
  addEventListener('popstate', pop);
  document.addEventListener('click', click);
  return () => {
    removeEventListener('popstate', pop);
    document.removeEventListener('click', click);
  };
}
