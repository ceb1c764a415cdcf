// The charts of a host: which queries draw them. Names are node_exporter's own.
import type { PanelQuery } from '../components/Panel.svelte';
import type { Dictionary } from '../i18n/en';
import type { Unit } from '../lib/format';

export interface ChartSpec {
  title: string;
  queries: PanelQuery[];
  unit: Unit;
  stack?: boolean;
  max?: number;
}
export interface Section {
  title: string;
  charts: ChartSpec[];
}

const REAL_FS = 'fstype!~"tmpfs|devtmpfs|ramfs|squashfs|iso9660|nsfs|proc|sysfs|cgroup.*|mqueue|devpts"';
const REAL_DISK = 'device!~"loop.*|ram.*|zram.*|sr.*|fd.*"';
const REAL_NET = 'device!~"lo|veth.*|docker.*|br-.*|cni.*|cali.*|flannel.*"';

export function hostCharts(agent: string, t: Dictionary): Section[] {
  const a = `agent="${agent.replace(/[\\"]/g, '\\$&')}"`;
  const s = t.host.series;
  const c = t.host.chart;
  const sum = (metric: string, more = '') => `sum(rate(${metric}{${a}${more && `,${more}`}}[$__rate]))`;
  const device = (l: Record<string, string>) => l.device ?? '';
  const mount = (l: Record<string, string>) => l.mountpoint ?? '';
  return [
    {
      title: t.host.sections.cpu,
      charts: [
        {
          title: c.cpu,
          unit: 'pct',
          stack: true,
          queries: [
            {
              q: `100 * avg by (mode) (rate(node_cpu_seconds_total{${a},mode!="idle"}[$__rate]))`,
              name: (l) => l.mode ?? '',
            },
          ],
        },
        {
          title: c.load,
          unit: 'load',
          queries: [
            { q: `node_load1{${a}}`, name: '1 min' },
            { q: `node_load5{${a}}`, name: '5 min' },
            { q: `node_load15{${a}}`, name: '15 min' },
            { q: `count(node_cpu_seconds_total{${a},mode="idle"})`, name: s.cores },
          ],
        },
      ],
    },
    {
      title: t.host.sections.memory,
      charts: [
        {
          title: c.memory,
          unit: 'bytes',
          stack: true,
          queries: [
            { q: `node_memory_MemTotal_bytes{${a}} - node_memory_MemAvailable_bytes{${a}}`, name: s.used },
            { q: `node_memory_MemAvailable_bytes{${a}} - node_memory_MemFree_bytes{${a}}`, name: s.cache },
            { q: `node_memory_MemFree_bytes{${a}}`, name: s.free },
          ],
        },
        {
          title: c.swap,
          unit: 'Bps',
          queries: [
            { q: `4096 * ${sum('node_vmstat_pswpin')}`, name: s.swapIn },
            { q: `4096 * ${sum('node_vmstat_pswpout')}`, name: s.swapOut },
          ],
        },
      ],
    },
    {
      title: t.host.sections.disk,
      charts: [
        {
          title: c.space,
          unit: 'pct',
          max: 100,
          queries: [
            {
              q: `100 * (1 - max by (mountpoint) (node_filesystem_avail_bytes{${a},${REAL_FS}} / node_filesystem_size_bytes{${a},${REAL_FS}}))`,
              name: mount,
            },
          ],
        },
        {
          title: c.io,
          unit: 'Bps',
          queries: [
            { q: sum('node_disk_read_bytes_total', REAL_DISK), name: s.read },
            { q: sum('node_disk_written_bytes_total', REAL_DISK), name: s.write },
          ],
        },
        {
          title: c.util,
          unit: 'pct',
          queries: [
            {
              q: `100 * max by (device) (rate(node_disk_io_time_seconds_total{${a},${REAL_DISK}}[$__rate]))`,
              name: device,
            },
          ],
        },
        {
          title: c.inodes,
          unit: 'pct',
          max: 100,
          queries: [
            {
              q: `100 * (1 - max by (mountpoint) (node_filesystem_files_free{${a},${REAL_FS}} / (node_filesystem_files{${a},${REAL_FS}} > 0)))`,
              name: mount,
            },
          ],
        },
      ],
    },
    {
      title: t.host.sections.network,
      charts: [
        {
          title: c.net,
          unit: 'Bps',
          queries: [
            { q: sum('node_network_receive_bytes_total', REAL_NET), name: s.rx },
            { q: sum('node_network_transmit_bytes_total', REAL_NET), name: s.tx },
          ],
        },
        {
          title: c.neterr,
          unit: 'ops',
          queries: [
            {
              q: `${sum('node_network_receive_errs_total', REAL_NET)} + ${sum('node_network_transmit_errs_total', REAL_NET)}`,
              name: s.errors,
            },
            {
              q: `${sum('node_network_receive_drop_total', REAL_NET)} + ${sum('node_network_transmit_drop_total', REAL_NET)}`,
              name: s.drops,
            },
          ],
        },
        {
          title: c.tcp,
          unit: 'num',
          queries: [
            { q: `node_netstat_Tcp_CurrEstab{${a}}`, name: s.established },
            { q: `node_sockstat_TCP_tw{${a}}`, name: s.timewait },
          ],
        },
      ],
    },
    {
      title: t.host.sections.system,
      charts: [
        {
          title: c.procs,
          unit: 'num',
          queries: [
            { q: `node_procs_running{${a}}`, name: s.running },
            { q: `node_procs_blocked{${a}}`, name: s.blocked },
          ],
        },
        {
          title: c.ctx,
          unit: 'ops',
          queries: [
            { q: sum('node_context_switches_total'), name: s.ctx },
            { q: sum('node_intr_total'), name: s.intr },
          ],
        },
        {
          title: c.fds,
          unit: 'num',
          queries: [{ q: `node_filefd_allocated{${a}}`, name: s.open }],
        },
      ],
    },
  ];
}
