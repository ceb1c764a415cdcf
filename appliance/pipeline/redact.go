// Package pipeline is what lines go through before they are proposed. Today that is redaction: card numbers, passwords
// and tokens in the text of lines, in their fields and in the bodies of events are masked, for every way in from outside
// and for the nodes' own logs. What the cluster tells of itself as events is written by us and does not pass here.
//
// Whatever a Redactor does is a function of one line and its options alone (DESIGN D5): it knows no line before, no
// clock and no other node. Version names the options and the code in the entry. It takes time linear in the length
// of a line, patterns of the operator's own excepted, and a line never becomes longer by it. It finds what looks like a secret, in one line: the inner lines
// of a key that a program writes line by line, or a password that stands in a text without its name, it cannot know.
//
// The package must not import the gateway, the intake or the stores.
package pipeline

import (
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
)

// Kind says what was masked.
type Kind uint8

// Kinds of secrets.
const (
	Card     Kind = iota // a number of 13 to 19 digits that is one of a card by its first digits and its last
	Password             // what follows the name of a password, and passwords in URLs
	Token                // what follows the name of a token or key, and what has the form of one
	Pattern              // what a pattern of the configuration matches
	kinds
)

// String is the name of the kind in metrics.
func (k Kind) String() string { return [...]string{"card", "password", "token", "pattern"}[k] }

// Bounds of the patterns in Options.
const (
	MaxPatterns     = 16
	MaxPatternBytes = 256
	maxInstructions = 1000 // of a pattern, compiled
)

// Options say what is masked.
type Options struct {
	Cards     bool
	Passwords bool
	Tokens    bool
	// Patterns are further ones, in the syntax of RE2. Where one has a group, what its first group matches is masked,
	// else all that it matches.
	Patterns []string
}

// CheckPattern says what is wrong with one of Options.Patterns.
func CheckPattern(pattern string) error {
	if len(pattern) > MaxPatternBytes {
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(pattern), MaxPatternBytes)
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return fmt.Errorf("is no RE2 pattern: %w", err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return fmt.Errorf("is no RE2 pattern: %w", err)
	}
	if len(prog.Inst) > maxInstructions {
		return fmt.Errorf("is too costly: %d steps compiled, at most %d are allowed; use smaller counts of repetitions", len(prog.Inst), maxInstructions)
	}
	if re, err := regexp.Compile(pattern); err != nil {
		return fmt.Errorf("is no RE2 pattern: %w", err)
	} else if re.MatchString("") {
		return fmt.Errorf("matches an empty text, and so everything")
	}
	return nil
}

// Redactor masks secrets. It is safe for concurrent use. A nil one masks nothing.
type Redactor struct {
	opts     Options
	patterns []*regexp.Regexp
	version  uint64
	masked   [kinds]prometheus.Counter
}

// codeVersion goes up whenever the same options mask something else.
const codeVersion = 2

// NewRedactor makes a Redactor and registers its counter of what was masked.
func NewRedactor(opts Options, reg prometheus.Registerer) (*Redactor, error) {
	if len(opts.Patterns) > MaxPatterns {
		return nil, fmt.Errorf("%d patterns of redaction, at most %d are allowed", len(opts.Patterns), MaxPatterns)
	}
	r := &Redactor{opts: opts}
	for i, p := range opts.Patterns {
		if err := CheckPattern(p); err != nil {
			return nil, fmt.Errorf("pattern %d of redaction %w", i, err)
		}
		r.patterns = append(r.patterns, regexp.MustCompile(p))
	}
	named, err := json.Marshal(opts)
	if err != nil {
		return nil, fmt.Errorf("encode options of redaction: %w", err)
	}
	r.version = wire.HashContent(append(named, codeVersion))
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "triward_redacted_total", Help: "Secrets masked in lines before they were stored, by kind.",
	}, []string{"kind"})
	for k := range kinds {
		r.masked[k] = total.WithLabelValues(k.String())
	}
	if reg != nil {
		if err := reg.Register(total); err != nil {
			return nil, fmt.Errorf("register counter of redaction: %w", err)
		}
	}
	return r, nil
}

// Version names options and code, for the entry that holds what went through them; 0 of a nil Redactor.
func (r *Redactor) Version() uint64 {
	if r == nil {
		return 0
	}
	return r.version
}

// Stream masks what is secret in the lines of a stream and in the values of its labels, but for `agent` and `host`,
// and reports whether there was something. Labels and fields that change are written anew; texts that change are new.
func (r *Redactor) Stream(s *wire.LogStream) (changed bool) {
	if r == nil {
		return false
	}
	s.Labels, changed = r.Labels(s.Labels)
	for i := range s.Lines {
		changed = r.Line(&s.Lines[i]) || changed
	}
	return changed
}

// Labels masks what is secret in the values of labels. Their names do not make a secret of a value: they name things.
func (r *Redactor) Labels(ls wire.Labels) (wire.Labels, bool) {
	if r == nil {
		return ls, false
	}
	changed := false
	for i := range ls {
		if ls[i].Name == "agent" || ls[i].Name == "host" {
			continue
		}
		if v, ok := r.text(ls[i].Value); ok {
			if !changed {
				ls = append(wire.Labels(nil), ls...)
			}
			ls[i].Value, changed = v, true
		}
	}
	return ls, changed
}

// Line masks what is secret in the text and the fields of a line and reports whether there was something.
func (r *Redactor) Line(l *wire.LogLine) (changed bool) {
	if r == nil {
		return false
	}
	l.Text, changed = r.bytes(l.Text)
	for i := range l.Fields {
		f := &l.Fields[i]
		if kind, ok := r.named(f.Name); ok && len(f.Value) > 0 && !(kind == Token && len(f.Value) < minToken) && !harmless(f.Value) {
			f.Value, changed = mask(len(f.Value)), true
			r.masked[kind].Inc()
			continue
		}
		if v, ok := r.text(f.Value); ok {
			f.Value, changed = v, true
		}
	}
	return changed
}

// named returns what kind of secret a field of that name holds.
func (r *Redactor) named(name string) (Kind, bool) {
	kind, _ := keyKind(name)
	switch kind {
	case keyPassword:
		return Password, r.opts.Passwords
	case keyToken, keyAuthorization:
		return Token, r.opts.Tokens
	}
	return 0, false
}

// text returns a text with its secrets masked, or as it is when there are none.
func (r *Redactor) text(s string) (string, bool) {
	out, changed := r.masks(s)
	if !changed {
		return s, false
	}
	return string(out), true
}

// bytes is text of bytes, which are only read.
func (r *Redactor) bytes(b []byte) ([]byte, bool) {
	out, changed := r.masks(unsafe.String(unsafe.SliceData(b), len(b)))
	if !changed {
		return b, false
	}
	return out, true
}

// masks returns the text with its secrets masked when there are any.
func (r *Redactor) masks(s string) ([]byte, bool) {
	spans := scan(s, &r.opts)
	if len(spans) == 0 && !slices.ContainsFunc(r.patterns, func(p *regexp.Regexp) bool { return p.MatchString(s) }) {
		return nil, false
	}
	return r.apply(s, spans)
}

// apply masks the spans, which ascend, and then what the patterns match.
func (r *Redactor) apply(s string, spans []span) (out []byte, changed bool) {
	if len(spans) > 0 {
		out, changed = make([]byte, 0, len(s)), true
		at := 0
		for _, sp := range spans {
			r.masked[sp.kind].Inc()
			out = append(append(out, s[at:sp.from]...), mask(sp.to-sp.from)...)
			at = sp.to
		}
		out = append(out, s[at:]...)
	} else {
		out = []byte(s)
	}
	for _, p := range r.patterns {
		var hit bool
		if out, hit = r.pattern(p, out); hit {
			changed = true
		}
	}
	return out, changed
}

func (r *Redactor) pattern(p *regexp.Regexp, text []byte) ([]byte, bool) {
	if !p.Match(text) {
		return text, false
	}
	var out []byte
	at, changed := 0, false
	for _, m := range p.FindAllSubmatchIndex(text, -1) {
		from, to := m[0], m[1]
		if len(m) > 2 {
			from, to = m[2], m[3]
		}
		if from < at || to <= from || masked(string(text[from:to])) {
			continue
		}
		r.masked[Pattern].Inc()
		out = append(append(out, text[at:from]...), mask(to-from)...)
		at, changed = to, true
	}
	return append(out, text[at:]...), changed
}

// Redacted is what stands for a secret of ten characters or more.
const Redacted = "[redacted]"

// mask is what stands for a secret of n bytes: never longer than it, so that no batch outgrows its bounds, and the same
// for nearly all lengths, so that it does not tell them.
func mask(n int) string {
	if n >= len(Redacted) {
		return Redacted
	}
	return "***"[:min(n, 3)]
}

// masked reports whether somebody has masked the value already.
func masked(v string) bool {
	if string(v) == Redacted {
		return true
	}
	for i := range len(v) {
		if v[i] != '*' {
			return false
		}
	}
	return true
}
