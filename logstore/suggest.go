package logstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/index"
	"github.com/triward/triward/logstore/query"
	"github.com/triward/triward/logstore/words"
)

// SuggestKind says what is suggested.
type SuggestKind uint8

// Kinds of suggestions.
const (
	SuggestWord  SuggestKind = iota // words of the text
	SuggestName                     // names of labels and structured fields
	SuggestValue                    // values of one of them
)

// Bounds of suggestions.
const (
	MaxSuggestions   = 50
	MaxSuggestBudget = 2 * time.Second
	suggestBudget    = 250 * time.Millisecond
	suggestAtOnce    = 2      // others wait
	suggestLines     = 20_000 // lines whose words are counted
	confirmLines     = 1000   // lines that are looked at for whole words
	suggestTexts     = 4096   // distinct texts that are counted
	suggestBytes     = 256    // of one; longer ones are not suggested
	suggestTerms     = 1000   // terms of the index of one day
)

// SuggestRequest asks for what somebody may want to type.
type SuggestRequest struct {
	Kind       SuggestKind
	Prefix     string        // what is typed: one word, or CJK characters in a row; case does not count
	Field      string        // of SuggestValue
	Start, End int64         // nanoseconds, Start <= T < End; End 0 is no end
	Limit      int           // 1 to MaxSuggestions; 0 is 10
	Budget     time.Duration // how long it may take, at most MaxSuggestBudget; 0 is 250 ms
}

// Suggestion is a text that leads to lines of the time asked for.
type Suggestion struct {
	Kind  SuggestKind
	Text  string // words are folded
	Lines int64  // in which it was seen; there may be more. 0 only of a Lead
	Open  bool   // a word may go on behind it: the index knows words up to their first number
	Lead  bool   // there was no time to look for a line with it; there may be none
}

// Suggestions are the most frequent ones first, then those that were only looked up.
type Suggestions struct {
	Items []Suggestion
	Cut   bool // the time was over before all was looked at
	Stats Stats
}

// Suggest returns what goes on from a prefix. It reads the newest lines and counts, for half of its time; what is rarer it
// takes from the word index and the streams, and looks for a line of each. So every suggestion leads to a line that a search
// would find now, or is marked as a lead. A word that lines which retention hides may have is no lead. It fails with ErrRequest, ErrBusy, the context's error, ErrClosed or ErrDamaged.
func (s *Store) Suggest(ctx context.Context, req SuggestRequest) (*Suggestions, error) {
	if req.Limit == 0 {
		req.Limit = 10
	}
	if req.Budget == 0 {
		req.Budget = suggestBudget
	}
	if req.Limit < 0 || req.Limit > MaxSuggestions || req.Budget < 0 || req.Budget > MaxSuggestBudget ||
		req.Kind == SuggestValue && req.Field == "" || req.Kind > SuggestValue || len(req.Prefix) > suggestBytes {
		return nil, fmt.Errorf("%w: suggestions are 1 to %d in at most %v, go on from at most %d bytes, and values need a field",
			ErrRequest, MaxSuggestions, MaxSuggestBudget, suggestBytes)
	}
	g := &suggester{store: s, req: req, caller: ctx, began: time.Now(), lines: suggestLines}
	var cancel context.CancelFunc
	g.ctx, cancel = context.WithTimeout(ctx, req.Budget)
	defer cancel()
	select {
	case s.suggesting <- struct{}{}:
		defer func() { <-s.suggesting }()
	case <-g.ctx.Done(): // others take all of the time
		return &Suggestions{Cut: true}, ctx.Err()
	}
	admitted, done, err := s.Admit(g.ctx, queryBytes)
	if err != nil {
		return &g.out, g.over(g.ctx, err)
	}
	defer done()
	g.ctx = admitted
	return g.run()
}

func (g *suggester) run() (*Suggestions, error) {
	g.seen = map[string]int64{}
	if g.begin() {
		if err := g.look(); err != nil {
			return nil, err
		}
	}
	g.out.Stats.Duration = time.Since(g.began)
	return &g.out, nil
}

// suggester makes one answer.
type suggester struct {
	store  *Store
	req    SuggestRequest
	caller context.Context
	ctx    context.Context // ends with the budget
	began  time.Time
	lines  int // that are looked at

	prefix string   // folded
	chars  []string // of a CJK prefix
	seen   map[string]int64
	hidden map[string]bool // of rarer: only lines that retention hides may have it
	out    Suggestions
}

// begin reads the prefix and reports whether anything can go on from it.
func (g *suggester) begin() bool {
	g.prefix = words.FoldString(g.req.Prefix)
	if g.req.Kind != SuggestWord {
		return true
	}
	ws := words.Split(g.req.Prefix)
	if strings.Join(ws, "") != g.prefix || len(ws) == 0 || len(ws) > 1 && !words.IsCJKWord(ws[0]) {
		return false
	}
	if words.IsCJKWord(ws[0]) {
		g.chars = ws
		return !slices.ContainsFunc(ws, func(w string) bool { return !words.IsCJKWord(w) })
	}
	return true
}

func (g *suggester) look() error {
	var filter *query.Filter
	var v sink
	sample := sampler{g: g}
	switch g.req.Kind {
	case SuggestWord:
		filter, v = query.Phrase(g.req.Prefix, true), &wordSampler{sampler: sample}
	case SuggestName:
		if err := g.textNames(); err != nil {
			return err
		}
		v = &nameSampler{sample}
	default:
		if !ofEveryLine(g.req.Field) {
			filter = query.Field(g.req.Field, query.HasPrefix, g.req.Prefix)
			if g.req.Prefix == "" {
				filter = query.Field(g.req.Field, query.Exists, "")
			}
		}
		v = &valueSampler{sample, newCountedBy(g.req.Field)}
	}
	if err := g.scan(filter, g.began.Add(g.req.Budget/2), v); err != nil {
		return err
	}
	for text, n := range g.seen {
		g.out.Items = append(g.out.Items, Suggestion{Kind: g.req.Kind, Text: text, Lines: n})
	}
	slices.SortFunc(g.out.Items, func(a, b Suggestion) int {
		return cmp.Or(cmp.Compare(b.Lines, a.Lines), cmp.Compare(a.Text, b.Text))
	})
	if len(g.out.Items) < g.req.Limit && g.out.Cut { // else all lines were looked at
		more, err := g.rarer()
		if err == nil {
			err = g.confirm(more[:min(len(more), g.req.Limit-len(g.out.Items))])
		}
		if err != nil {
			return err
		}
	}
	g.out.Items = g.out.Items[:min(len(g.out.Items), g.req.Limit)]
	return nil
}

// ofEveryLine reports whether every line has the field.
func ofEveryLine(field string) bool {
	return field == "severity" || field == "level" || field == "kind"
}

// scan offers lines, newest first, to v until the time is over or v.stop is called.
func (g *suggester) scan(f *query.Filter, until time.Time, v sink) error {
	ctx, cancel := context.WithDeadline(g.ctx, until)
	defer cancel()
	c, done, err := g.store.query(ctx, &Request{Filter: f, Start: g.req.Start, End: g.req.End})
	if err != nil {
		return err
	}
	defer done()
	if w, ok := v.(interface{ onEnough(func()) }); ok {
		w.onEnough(cancel)
	}
	c.sink = v
	err = c.run()
	g.out.Stats.add(&c.stats)
	return g.over(ctx, err)
}

// over tells the end of the time for something from its failure.
func (g *suggester) over(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ErrClosed) || g.caller.Err() != nil {
		return err
	}
	g.out.Cut = true
	return nil
}

// sampler counts the texts that a sink finds.
type sampler struct {
	g      *suggester
	lines  int
	enough func()
}

func (v *sampler) onEnough(fn func())                      { v.enough = fn }
func (v *sampler) wants(int64, int64, uint64, uint64) bool { return v.lines < v.g.lines }
func (v *sampler) whole(*stream, *block.Header) bool       { return false }

// line counts a line that was looked at and reports whether the next one is wanted.
func (v *sampler) line() bool {
	if v.lines++; v.lines < v.g.lines {
		return true
	}
	v.g.out.Cut = true
	v.enough()
	return false
}

func (v *sampler) count(text []byte, n int64) {
	if len(text) > suggestBytes || len(text) == 0 {
		return
	}
	if _, known := v.g.seen[string(text)]; known || len(v.g.seen) < suggestTexts {
		v.g.seen[string(text)] += n
	}
}

// wordSampler counts the words with the prefix, each once a line.
type wordSampler struct {
	sampler
	fold  []byte
	found []string // of this line
}

func (v *wordSampler) needs() (positions, fields, text bool) { return false, false, true }

func (v *wordSampler) add(_ *stream, l *block.Line) bool {
	v.found = v.found[:0]
	for s := (words.Scanner{Text: l.Text}); s.Next(); {
		if v.fold = v.g.match(v.fold[:0], s); len(v.fold) == 0 || len(v.fold) > suggestBytes || len(v.found) >= 64 {
			continue
		}
		if w := string(v.fold); !slices.Contains(v.found, w) {
			v.found = append(v.found, w)
			v.count(v.fold, 1)
		}
	}
	return v.line()
}

// match appends the word at which s stands, folded, when it has the prefix; of a CJK prefix, the characters and the next one.
func (g *suggester) match(dst []byte, s words.Scanner) []byte {
	if g.chars == nil {
		if word := s.Text[s.Start:s.End]; !s.CJK && len(word) <= suggestBytes && words.Same(word, g.prefix, true) {
			dst = words.AppendFold(dst, word)
		}
		return dst
	}
	for i, end := 0, s.Start; ; i++ {
		if s.Start != end || !s.CJK || i < len(g.chars) && !words.Same(s.Text[s.Start:s.End], g.chars[i], false) {
			if i < len(g.chars) {
				return dst[:0]
			}
			return dst
		}
		dst = words.AppendFold(dst, s.Text[s.Start:s.End])
		if end = s.End; i == len(g.chars) || !s.Next() {
			if i+1 < len(g.chars) {
				return dst[:0]
			}
			return dst
		}
	}
}

// nameSampler counts the names of labels and fields.
type nameSampler struct{ sampler }

func (v *nameSampler) needs() (positions, fields, text bool) { return false, true, false }

func (v *nameSampler) whole(st *stream, h *block.Header) bool {
	if h.HasFields {
		return false
	}
	v.labels(st, int64(h.Lines))
	return true
}

func (v *nameSampler) labels(st *stream, n int64) {
	for _, name := range [...]string{"severity", "kind"} {
		v.name(name, n)
	}
	for _, l := range st.labels() {
		v.name(l.Name, n)
	}
}

func (v *nameSampler) name(name string, n int64) {
	if v.g.startsAs(name) && query.IsFieldName(name) {
		v.count([]byte(name), n)
	}
}

func (v *nameSampler) add(st *stream, l *block.Line) bool {
	v.labels(st, 1)
	for i := range l.Fields {
		if st.label(l.Fields[i].Name) == "" {
			v.name(l.Fields[i].Name, 1)
		}
	}
	return v.line()
}

func (g *suggester) startsAs(text string) bool { return words.Same([]byte(text), g.prefix, true) }

// valueSampler counts the values of the field.
type valueSampler struct {
	sampler
	*countedBy
}

func (v *valueSampler) value(value string, n int64) {
	if v.g.startsAs(value) {
		v.count([]byte(value), n)
	}
}

func (v *valueSampler) whole(st *stream, h *block.Header) bool {
	return v.countedBy.whole(st, h, v.value)
}

func (v *valueSampler) add(st *stream, l *block.Line) bool {
	v.value(v.of(st, l), 1)
	return v.line()
}

// rarer returns what may be suggested beside what was seen, the best first.
func (g *suggester) rarer() (texts []string, err error) {
	var st Stats
	switch g.req.Kind {
	case SuggestWord:
		return g.terms()
	case SuggestName:
		texts, st, err = g.store.labels(g.ctx, g.req.Start, g.end(), func(st *stream, add func([]byte)) {
			_ = walkLabels(st.row, func(name, _ []byte) bool { // checked when it was read
				if len(name) <= suggestBytes && words.Same(name, g.prefix, true) && query.IsFieldName(string(name)) {
					add(name)
				}
				return true
			})
		})
	case SuggestValue:
		if ofEveryLine(g.req.Field) {
			return g.names(), nil
		}
		texts, st, err = g.store.labels(g.ctx, g.req.Start, g.end(), func(st *stream, add func([]byte)) {
			_ = walkLabels(st.row, func(name, value []byte) bool {
				if string(name) == g.req.Field && len(value) <= suggestBytes && words.Same(value, g.prefix, true) {
					add(value)
				}
				return true
			})
		})
	}
	g.out.Stats.add(&st)
	texts = slices.DeleteFunc(texts, func(text string) bool { return g.seen[text] > 0 })
	return texts, g.over(g.ctx, err)
}

// end is the end of the time for what takes no 0 for none.
func (g *suggester) end() int64 {
	if g.req.End == 0 {
		return maxTime
	}
	return g.req.End
}

// names lists the severities, or kinds, that were not seen.
func (g *suggester) names() (texts []string) {
	all := []string{kindName(wire.StreamLog), kindName(wire.StreamEvent)}
	if g.req.Field != "kind" {
		all = all[:0]
		for s := wire.SeverityCritical; s > wire.SeverityUnknown; s-- {
			all = append(all, s.String())
		}
	}
	return slices.DeleteFunc(all, func(text string) bool { return g.seen[text] > 0 || !g.startsAs(text) })
}

// terms asks the word indexes of the days, newest first, for terms with the prefix that no line was seen with.
func (g *suggester) terms() (texts []string, err error) {
	e, release, err := g.store.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	last := g.prefix
	if len(g.chars) > 0 {
		last = g.chars[len(g.chars)-1]
	}
	if term, whole := block.IndexTerm(last); e.index == nil || !whole || term == "" {
		return nil, nil
	}
	days, err := e.days(e.db, prefixIndex, true)
	if err != nil {
		return nil, err
	}
	low, cut := g.store.floorsNow(), g.store.cuts.Load()
	first, end := Day(max(g.req.Start, low.all())), Day(g.end()-1)
	blocks := map[string]uint64{}
	g.hidden = map[string]bool{}
	for _, d := range days {
		if d < first || d > end || e.distrusted(d) || len(blocks) >= suggestTexts {
			continue
		}
		found, err := g.termsOf(e, d, last)
		if err != nil {
			return nil, g.over(g.ctx, err)
		}
		hides := cut.hides(d, &low)
		for _, t := range found {
			text := strings.Join(g.chars[:max(0, len(g.chars)-1)], "") + t.Term
			if g.seen[text] > 0 {
				continue
			}
			if _, known := blocks[text]; !hides {
				delete(g.hidden, text)
			} else if !known {
				g.hidden[text] = true
			}
			blocks[text] += t.Blocks
		}
	}
	texts = slices.Collect(maps.Keys(blocks))
	slices.SortFunc(texts, func(a, b string) int {
		return cmp.Or(cmp.Compare(blocks[b], blocks[a]), cmp.Compare(a, b))
	})
	return texts, nil
}

// termsOf asks the index of one day; one that cannot be used knows nothing.
func (g *suggester) termsOf(e *engine, d int64, prefix string) ([]index.TermCount, error) {
	name, ok, err := e.indexName(e.db, d)
	if err != nil || !ok {
		return nil, err
	}
	terms, err := e.index.Terms(g.ctx, d, name, prefix, suggestTerms)
	if errors.Is(err, index.ErrUnusable) {
		if now, ok, nerr := e.indexName(e.db, d); nerr == nil && ok && now == name { // else the day was dropped meanwhile
			e.distrust(d, name, err)
		}
		return nil, nil
	}
	return terms, err
}

// confirm looks for a line of each text and adds those that have one, or for which there was no time.
func (g *suggester) confirm(texts []string) error {
	if len(texts) == 0 {
		return nil
	}
	v := &confirmer{text: g.req.Kind == SuggestWord}
	var any []*query.Filter
	for _, text := range texts {
		c := confirmed{text: text, filter: g.filterOf(text)}
		if v.text {
			c.whole, c.filter = c.filter, query.Phrase(text, true)
		}
		v.all = append(v.all, c)
		any = append(any, c.filter)
	}
	v.left, v.open = len(v.all), len(v.all)
	cut := g.out.Cut
	g.out.Cut = false
	if err := g.scan(query.Or(any...), g.began.Add(g.req.Budget), v); err != nil {
		return err
	}
	ended := !g.out.Cut || v.left == 0
	g.out.Cut = cut || !ended
	for i := range v.all {
		switch c := &v.all[i]; {
		case c.lines > 0:
			g.out.Items = append(g.out.Items, Suggestion{Kind: g.req.Kind, Text: c.text, Lines: c.lines, Open: !c.isWhole})
		case !ended && !g.hidden[c.text]:
			g.out.Items = append(g.out.Items, Suggestion{Kind: g.req.Kind, Text: c.text, Open: v.text, Lead: true})
		}
	}
	slices.SortStableFunc(g.out.Items, func(a, b Suggestion) int { return cmp.Compare(btoi(a.Lead), btoi(b.Lead)) })
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// filterOf is the condition that a suggestion stands for.
func (g *suggester) filterOf(text string) *query.Filter {
	switch {
	case g.req.Kind == SuggestWord:
		return query.Phrase(text, false)
	case g.req.Kind == SuggestName:
		return query.Field(text, query.Exists, "")
	case g.req.Field == "kind" && text == kindName(wire.StreamEvent):
		return query.KindIs(wire.StreamEvent)
	case g.req.Field == "kind":
		return query.KindIs(wire.StreamLog)
	case ofEveryLine(g.req.Field):
		for s := range wire.SeverityCritical + 1 {
			if s.String() == text {
				return query.SeverityIn(1 << s)
			}
		}
	}
	return query.Field(g.req.Field, query.Equal, text)
}

// confirmed is a text for which a line is sought.
type confirmed struct {
	text    string
	filter  *query.Filter
	whole   *query.Filter // of a word: all of it
	lines   int64         // with it; of a whole word the one that shows it
	isWhole bool
}

// confirmer is the sink that finds lines for texts.
type confirmer struct {
	all    []confirmed
	left   int // without a line
	open   int // not known to be whole words
	done   bool
	text   bool
	lines  int
	enough func()
}

func (v *confirmer) onEnough(fn func())                      { v.enough = fn }
func (v *confirmer) wants(int64, int64, uint64, uint64) bool { return !v.done }
func (v *confirmer) whole(*stream, *block.Header) bool       { return false }
func (v *confirmer) needs() (positions, fields, text bool)   { return false, !v.text, v.text }

func (v *confirmer) add(st *stream, l *block.Line) bool {
	line := query.Line{T: l.T, Kind: st.kind, Severity: l.Severity, Labels: st.labels(), Fields: l.Fields, Text: l.Text}
	for i := range v.all {
		c := &v.all[i]
		if c.lines > 0 && (c.whole == nil || c.isWhole) || !c.filter.Match(&line) {
			continue
		}
		if c.lines == 0 {
			v.left--
		}
		if c.whole == nil || c.whole.Match(&line) {
			c.isWhole, c.lines = true, 1
			v.open--
			continue
		}
		c.lines++
	}
	if v.lines++; v.left == 0 && (v.open == 0 || v.lines >= confirmLines) || v.lines >= suggestLines {
		v.done = true
		v.enough()
		return false
	}
	return true
}
