// 日志页面上日志模式的文字。
import type { patterns as en } from './patterns.en';

export const patterns: typeof en = {
  title: '日志模式',
  show: '模式',
  hint: '去掉各行之间不同的部分（<*>）之后的样子。点击即可查找对应的日志。',
  col: { pattern: '模式', lines: '行数', trend: '随时间变化', firstLast: '首次与最近' },
  of: (lines, patterns) => `${lines} 行，${patterns} 种模式`,
  ofMany: (lines) => `${lines} 行，模式极多`,
  other: (n) => `另有 ${n} 行属于其他模式`,
  capped: '模式太多：可能有比列表末尾更常见的模式未列出。',
  isNew: '新',
  onlyNew: '仅新模式',
  news: (n, since) => `自 ${since} 起有 ${n} 种新模式`,
  kept: (from) => `日志保存自 ${from}`,
  looking: '正在查找新模式…',
  unknown: (why) => `无法判断哪些是新模式：${why}`,
  none: '没有模式',
  noneNew: '没有新模式',
  noneNewHint: '此时间范围内的模式以前都出现过。',
  only: '查找对应的日志',
  without: '排除这些日志',
  trend: (n) => `${n} 行随时间的分布`,
};
