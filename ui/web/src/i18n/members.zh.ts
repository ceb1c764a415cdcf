// 集群页“成员与版本”部分的文字。
import type { members as en } from './members.en';

export const members: typeof en = {
  title: '成员',
  hint: '新节点先接收全部数据，追上后由主节点授予投票权。会危及多数派的变更将被拒绝。',
  node: '节点',
  part: {
    leader: '主节点',
    voter: '有投票权',
    readOnly: '只读',
    joining: '加入中，尚无投票权',
    leaving: '移除中',
    unreachable: '无法连接',
  },
  version: '版本',
  formats: '支持的格式至',
  actions: '操作',
  lead: '移交主节点',
  leadTo: '设为主节点',
  promote: '授予投票权',
  demote: '设为只读',
  demoteAsk: (id) => `取消 ${id} 的投票权？它仍接收全部数据并可查询，但写入不再等待它，它也不能成为主节点。`,
  remove: '移除',
  removeTitle: (id) => `移除节点 ${id}`,
  removeHint:
    '该节点将停止，且不能再用现有数据启动；其证书不再有效。若要回来，该机器须重新加入并从其他节点获取全部数据。删除其 TLS 目录之前，该机器仍持有集群的密钥。',
  removeType: (id) => `请输入 ${id} 以继续`,
  removeDo: '永久移除',
  cancel: '取消',
  costs: (voters) =>
    voters === 1
      ? '只有一个投票节点：它停机时无法写入，磁盘丢失则数据丢失。请增加到三个节点。'
      : voters === 2
        ? '两个投票节点：缺一不可。这只是增加到三个节点的过渡。'
        : voters % 2 === 0
          ? `${voters} 个投票节点能容忍的故障数并不比 ${voters - 1} 个多。`
          : '',
  removed: (id, by, when) => `${id} 已由 ${by} 移除，${when}`,
  format: (n) => `集群格式：${n}。`,
  finalize: (n) => `升至格式 ${n}`,
  finalizeAsk: (n) => `所有成员都支持格式 ${n}。此后任何节点都不能退回旧版本。确定升级格式？`,
  blocked: '滚动升级进行中，尚不能完成：',
};
