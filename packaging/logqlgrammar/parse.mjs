// Reads a JSON list of queries from its input and writes what Grafana's grammar of LogQL makes of each: a JSON list of null,
// where it refuses a query, or the query's shape. logstore/logql/syntax compares that with our own parser's.
import { readFileSync } from 'node:fs'
import { parser } from '@grafana/lezer-logql'

const kids = (n) => {
  const out = []
  for (let c = n.firstChild; c; c = c.nextSibling) if (c.name !== 'LineComment') out.push(c)
  return out
}
const named = (n, ...names) => kids(n).filter((c) => names.includes(c.name))
const first = (n, ...names) => named(n, ...names)[0]

// all finds the nodes of a name below n, in order. Lists are nested to the left in the grammar's trees.
const all = (n, name, out = []) => {
  for (const c of kids(n)) c.name === name ? out.push(c) : all(c, name, out)
  return out
}

const units = { ns: 1n, us: 1000n, µs: 1000n, μs: 1000n, ms: 1000000n, s: 1000000000n }
units.m = 60n * units.s
units.h = 60n * units.m
units.d = 24n * units.h
units.w = 7n * units.d
units.y = 365n * units.d

class Shape {
  constructor(text) {
    this.text = text
  }

  of(n) {
    return this.text.slice(n.from, n.to)
  }

  string(n) {
    const s = this.of(n)
    if (s[0] === '`') return s.slice(1, -1)
    try {
      return JSON.parse(s)
    } catch {
      return s // an escape that JSON does not know; the grammar looks at none
    }
  }

  number(n) {
    return Number(this.of(n))
  }

  nanoseconds(n) {
    let s = this.of(n)
    const sign = s[0] === '-' ? -1 : 1
    s = s.replace(/^[-+]/, '')
    let whole = 0n
    let rest = 0
    for (const [, value, unit] of s.matchAll(/([0-9.]+)([a-zµμ]+)/g)) {
      if (value.includes('.')) rest += Number(value) * Number(units[unit])
      else whole += BigInt(value) * units[unit]
    }
    return sign * (Number(whole) + Math.trunc(rest)) + 0
  }

  matcher(n) {
    const [name, op, value] = kids(n)
    return [this.of(name), this.of(op), this.string(value)]
  }

  names(n) {
    return n ? all(n, 'Identifier').concat(all(n, 'LabelName')).map((c) => this.of(c)) : []
  }

  expr(n) {
    switch (n.name) {
      case 'LogQL':
      case 'Expr':
      case 'MetricExpr':
        return this.expr(kids(n)[0])
      case 'LogExpr':
        return this.log(first(n, 'LogExpr') ?? n) // parentheses
      case 'LiteralExpr':
        return ['number', Number(this.of(n).replace(/\s/g, ''))]
      case 'VectorExpr':
        return ['constant', this.number(first(n, 'Number'))]
      case 'LabelReplaceExpr':
        return ['label_replace', this.expr(first(n, 'MetricExpr')), ...named(n, 'String').map((c) => this.string(c))]
      case 'VectorAggregationExpr':
        return [
          'aggregation', this.of(first(n, 'VectorOp')).toLowerCase(), this.parameter(n), this.grouping(first(n, 'Grouping')),
          this.expr(first(n, 'MetricExpr')),
        ]
      case 'RangeAggregationExpr':
        return this.range(n)
      case 'BinOpExpr':
        return this.binary(n)
    }
    return ['other', n.name]
  }

  parameter(n) {
    const p = first(n, 'Number')
    return p ? this.number(p) : null
  }

  grouping(n) {
    return n ? [this.of(kids(n)[0]).toLowerCase(), this.names(n)] : null
  }

  range(n) {
    let r = first(n, 'LogRangeExpr')
    while (first(r, 'LogRangeExpr')) r = first(r, 'LogRangeExpr') // parentheses
    const offset = first(r, 'OffsetExpr')
    const unwrap = first(r, 'UnwrapExpr')
    return [
      'range', this.of(first(n, 'RangeOp')), this.parameter(n), this.log(r), unwrap ? this.unwrap(unwrap) : null,
      this.nanoseconds(first(first(r, 'Range'), 'Duration')), offset ? this.nanoseconds(first(offset, 'Duration')) : 0,
      this.grouping(first(n, 'Grouping')),
    ]
  }

  unwrap(n) {
    const inner = first(n, 'UnwrapExpr')
    if (inner) {
      const u = this.unwrap(inner)
      u[3].push(this.predicate(first(n, 'LabelFilter')))
      return u
    }
    const convert = first(n, 'ConvOp')
    return ['unwrap', convert ? this.of(convert).replace('_seconds', '') : '', this.of(first(n, 'Identifier')), []]
  }

  binary(n) {
    const [left, op, modifier, right] = kids(n)
    let matching = null
    const how = first(modifier, 'OnOrIgnoringModifier')
    if (how) {
      const side = first(modifier, 'GroupLeft', 'GroupRight')
      matching = [
        this.of(kids(how)[0]).toLowerCase(), this.names(how), side ? this.of(side).toLowerCase() : '',
        this.names(first(modifier, 'GroupingLabels')),
      ]
    }
    return ['binary', this.of(op).toLowerCase(), Boolean(first(modifier, 'Bool')), matching, this.expr(left), this.expr(right)]
  }

  log(n) {
    const stages = []
    const pipeline = first(n, 'PipelineExpr')
    for (const s of pipeline ? all(pipeline, 'PipelineStage') : []) {
      for (const c of kids(s)) {
        if (c.name === 'LineFilters') stages.push(...this.lineFilters(c))
        else if (c.name !== 'Pipe') stages.push(this.stage(c))
      }
    }
    return ['log', all(first(n, 'Selector'), 'Matcher').map((m) => this.matcher(m)), stages]
  }

  lineFilters(n) {
    const out = []
    for (const c of kids(n)) {
      if (c.name === 'LineFilters') out.push(...this.lineFilters(c))
      if (c.name === 'LineFilter') out.push(['line', this.of(first(c, 'Filter')), this.alternatives(c)])
      if (c.name === 'OrFilter') out.at(-1)[2].push(...this.alternatives(c)) // behind ip(…)
    }
    return out
  }

  alternatives(n) {
    return kids(n).flatMap((c) => {
      if (c.name === 'String') return [[Boolean(first(n, 'FilterOp')), this.string(c)]]
      return c.name === 'OrFilter' ? this.alternatives(c) : []
    })
  }

  extracts(n) {
    return all(n, 'LabelExtractionExpression').map((c) => {
      const path = first(c, 'String')
      const name = this.of(first(c, 'Identifier'))
      return [name, path ? this.string(path) : name]
    })
  }

  stage(n) {
    const text = first(n, 'String')
    switch (n.name) {
      case 'LabelParser':
        return text ? [this.of(kids(n)[0]).toLowerCase(), this.string(text)] : [this.of(kids(n)[0]).toLowerCase(), []]
      case 'JsonExpressionParser':
        return ['json', this.extracts(n)]
      case 'LogfmtParser':
      case 'LogfmtExpressionParser':
        return ['logfmt', this.extracts(n), ...[...new Set(all(n, 'ParserFlag').map((c) => this.of(c)))].sort()]
      case 'DecolorizeExpr':
        return ['decolorize', []]
      case 'LineFormatExpr':
        return ['line_format', this.string(text)]
      case 'LabelFormatExpr':
        return ['label_format', all(n, 'LabelFormatMatcher').map((c) => {
          const [dst, , src] = kids(c)
          return src.name === 'String' ? [this.of(dst), 'template', this.string(src)] : [this.of(dst), 'label', this.of(src)]
        })]
      case 'DropLabelsExpr':
      case 'KeepLabelsExpr':
        return [n.name.slice(0, 4).toLowerCase(), all(n, n.name.slice(0, 4) + 'Label').map((c) => {
          const m = first(c, 'Matcher')
          return m ? this.matcher(m) : [this.of(c)]
        })]
      case 'LabelFilter':
        return ['filter', this.predicate(n)]
    }
    return ['other', n.name]
  }

  predicate(n) {
    const c = kids(n)
    const sides = named(n, 'LabelFilter')
    if (sides.length === 2) return ['both', first(n, 'Or') ? 'or' : 'and', this.predicate(sides[0]), this.predicate(sides[1])]
    switch (c[0].name) {
      case 'LabelFilter':
      case 'UnitFilter':
        return this.predicate(c[0])
      case 'Matcher':
        return ['match', ...this.matcher(c[0])]
      case 'IpLabelFilter': {
        const [name, op] = kids(c[0])
        return ['ip', this.of(name), this.of(op), this.string(first(c[0], 'String'))]
      }
      case 'NumberFilter':
      case 'DurationFilter':
      case 'BytesFilter': {
        const [name, op, value] = kids(c[0])
        return this.compared(name, op, value)
      }
    }
    // A unit filter's own node is the last level of parentheses.
    return this.compared(...c)
  }

  compared(name, op, value) {
    const sign = this.of(op)
    return ['number', this.of(name), sign === '=' ? '==' : sign, this.of(value).replace(/[\s+]/, '').replace(/\s/g, '')]
  }
}

const refused = (tree) => {
  let bad = false
  tree.iterate({ enter: (n) => { bad ||= n.type.isError } })
  return bad
}

const answers = JSON.parse(readFileSync(0, 'utf8')).map((text) => {
  const tree = parser.parse(text)
  return refused(tree) ? null : new Shape(text).expr(tree.topNode)
})
process.stdout.write(JSON.stringify(answers))
