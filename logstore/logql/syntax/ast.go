package syntax

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Expr is an expression: a *Log, or a Metric.
type Expr interface {
	// String returns the expression in its canonical form, on one line, which parses to the same.
	String() string
	print(p *printer)
}

// Metric is an expression whose value is numbers: *Range, *Vector, *Binary, *Number, *Constant or *LabelReplace.
type Metric interface {
	Expr
	metric()
}

// Matcher compares a label, regular expressions anchored at both ends; a label that is not there equals "".
type Matcher = labels.Matcher

// Log selects streams and runs their lines through stages.
type Log struct {
	Selector []*Matcher
	Stages   []Stage
}

// Stage is one step of a pipeline.
type Stage interface{ print(p *printer) }

// LineOp is the operator of a line filter.
type LineOp string

// Operators of line filters.
const (
	LineContains   LineOp = "|="
	LineNot        LineOp = "!="
	LineRegex      LineOp = "|~"
	LineNotRegex   LineOp = "!~"
	LinePattern    LineOp = "|>"
	LineNotPattern LineOp = "!>"
)

// Negative reports whether the operator keeps what does not match.
func (o LineOp) Negative() bool { return o[0] == '!' }

// LineFilter keeps lines that hold any of Alts; a negative one those that hold none.
type LineFilter struct {
	Op   LineOp
	Alts []LineAlt
}

// LineAlt is one alternative of a line filter: a text, an expression, a pattern, or addresses when IP is set.
type LineAlt struct {
	Text string
	IP   bool
}

// Extract takes one value out of a line: Label is its name, Path where it is.
type Extract struct{ Label, Path string }

// JSON makes labels of the members of an object, or of those that Fields name.
type JSON struct{ Fields []Extract }

// Logfmt makes labels of key=value pairs.
type Logfmt struct {
	Strict    bool // stop at the first malformed pair, with an error
	KeepEmpty bool // also keys without a value
	Fields    []Extract
}

// Regexp makes labels of named groups.
type Regexp struct{ Pattern string }

// Pattern makes labels of <captures> between literals.
type Pattern struct{ Pattern string }

// Unpack makes labels of an object's strings, and the line of its _entry.
type Unpack struct{}

// Decolorize takes ANSI sequences out of the line.
type Decolorize struct{}

// LabelFilter keeps lines whose labels satisfy the predicate.
type LabelFilter struct{ Pred Pred }

// Pred is a predicate on labels: *PredMatch, *PredNumber, *PredIP or *PredBoth.
type Pred interface{ print(p *printer) }

// PredMatch compares as text.
type PredMatch struct{ *Matcher }

// Unit says what a number counts.
type Unit uint8

// Units of numbers in label filters.
const (
	UnitNone Unit = iota
	UnitDuration
	UnitBytes
)

// PredNumber compares as a number. Durations are in seconds.
type PredNumber struct {
	Name  string
	Op    string // == != > >= < <=
	Value float64
	Unit  Unit
	Text  string // of the number as written
}

// PredIP compares addresses.
type PredIP struct {
	Name string
	Not  bool
	Spec string // an address, a range a-b or a network
}

// PredBoth joins two predicates.
type PredBoth struct {
	Or          bool
	Left, Right Pred
}

// LineFormat replaces the line by what a template makes.
type LineFormat struct{ Template string }

// LabelFormat renames labels or sets them from templates, one after the other.
type LabelFormat struct{ Items []FormatItem }

// FormatItem is Dst=Src (a renaming) or Dst="template".
type FormatItem struct {
	Dst, Src string
	Template bool
	Text     string // of the template
}

// NameMatch is a label by name, or by name and value.
type NameMatch struct {
	Name    string
	Matcher *Matcher // nil for any value
}

// Drop takes labels away.
type Drop struct{ Items []NameMatch }

// Keep takes all other labels away.
type Keep struct{ Items []NameMatch }

// Unwrap takes the number of a sample from a label. Convert is "", "duration" or "bytes". After are label filters that
// judge the line once the number was taken.
type Unwrap struct {
	Label   string
	Convert string
	After   []Stage
}

// RangeOp is a function over the lines or numbers of a range of time.
type RangeOp string

// Range functions.
const (
	OpRate        RangeOp = "rate"
	OpRateCounter RangeOp = "rate_counter"
	OpCount       RangeOp = "count_over_time"
	OpBytes       RangeOp = "bytes_over_time"
	OpBytesRate   RangeOp = "bytes_rate"
	OpAbsent      RangeOp = "absent_over_time"
	OpSum         RangeOp = "sum_over_time"
	OpAvg         RangeOp = "avg_over_time"
	OpMin         RangeOp = "min_over_time"
	OpMax         RangeOp = "max_over_time"
	OpFirst       RangeOp = "first_over_time"
	OpLast        RangeOp = "last_over_time"
	OpStdvar      RangeOp = "stdvar_over_time"
	OpStddev      RangeOp = "stddev_over_time"
	OpQuantile    RangeOp = "quantile_over_time"
)

// Grouping says by which labels series are put together.
type Grouping struct {
	Without bool
	Names   []string
}

// Range is a function over the lines in (t-Range-Offset, t-Offset].
type Range struct {
	Op       RangeOp
	Log      *Log
	Unwrap   *Unwrap // nil when lines are counted
	Range    time.Duration
	Offset   time.Duration
	Param    float64   // of quantile_over_time
	Grouping *Grouping // nil for all labels
}

// VectorOp aggregates over series.
type VectorOp string

// Vector aggregations.
const (
	AggSum      VectorOp = "sum"
	AggAvg      VectorOp = "avg"
	AggMin      VectorOp = "min"
	AggMax      VectorOp = "max"
	AggCount    VectorOp = "count"
	AggStddev   VectorOp = "stddev"
	AggStdvar   VectorOp = "stdvar"
	AggTopK     VectorOp = "topk"
	AggBottomK  VectorOp = "bottomk"
	AggApprox   VectorOp = "approx_topk"
	AggSort     VectorOp = "sort"
	AggSortDesc VectorOp = "sort_desc"
)

// Vector is an aggregation over series.
type Vector struct {
	Op       VectorOp
	Param    int // of topk and bottomk
	Grouping *Grouping
	Expr     Metric
}

// Matching says how the series of two sides find each other.
type Matching struct {
	On      bool // else ignoring
	Names   []string
	Group   string   // "", "left" or "right": the side with many
	Include []string // labels taken over from the side with one
}

// Binary is an operator between two expressions.
type Binary struct {
	Op          string
	Bool        bool
	Matching    *Matching // nil for all labels
	Left, Right Metric
}

// Number is a constant number.
type Number struct{ Value float64 }

// Constant is vector(x): one series without labels.
type Constant struct{ Value float64 }

// LabelReplace is label_replace(v, dst, replacement, src, regex).
type LabelReplace struct {
	Expr                         Metric
	Dst, Replacement, Src, Regex string
}

func (*Range) metric()        {}
func (*Vector) metric()       {}
func (*Binary) metric()       {}
func (*Number) metric()       {}
func (*Constant) metric()     {}
func (*LabelReplace) metric() {}

// Walk calls fn for the expression and all expressions below it, the *Log of ranges included.
func Walk(e Expr, fn func(Expr)) {
	fn(e)
	switch e := e.(type) {
	case *Range:
		Walk(e.Log, fn)
	case *Vector:
		Walk(e.Expr, fn)
	case *Binary:
		Walk(e.Left, fn)
		Walk(e.Right, fn)
	case *LabelReplace:
		Walk(e.Expr, fn)
	}
}
