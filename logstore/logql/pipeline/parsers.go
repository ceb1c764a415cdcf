package pipeline

import (
	"regexp"
	"strings"

	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/members"
	"github.com/triward/triward/logstore/regex"
)

// logfmt makes labels of key=value pairs.
type logfmt struct {
	strict, keepEmpty bool
	fields            []syntax.Extract
}

func (s *logfmt) run(p *Pipeline) bool {
	sc := members.Pairs{S: p.str()}
	for sc.Next() {
		if sc.Bad != "" {
			if s.strict {
				p.labels.fail(errLogfmt, sc.Bad)
				return true
			}
			continue
		}
		if sc.Value == "" && !s.keepEmpty {
			continue
		}
		if len(s.fields) == 0 {
			p.extract(p.names.sanitized(sc.Key), sc.Value, s.keepEmpty)
			continue
		}
		for i := range s.fields {
			if s.fields[i].Path == sc.Key {
				p.extract(s.fields[i].Label, sc.Value, s.keepEmpty)
			}
		}
	}
	return true
}

// regexpParser makes labels of named groups.
type regexpParser struct {
	re    *regex.Regexp
	names []string
}

func newRegexp(s *syntax.Regexp) (stage, error) {
	re, err := regexp.Compile(s.Pattern)
	if err != nil {
		return nil, err
	}
	return &regexpParser{regex.New(re), re.SubexpNames()}, nil
}

func (s *regexpParser) run(p *Pipeline) bool {
	line := p.str()
	m := s.re.FindStringSubmatchIndex(line, p.opts.Stop)
	if m == nil {
		return true
	}
	for i, n := range s.names {
		if n != "" && m[2*i] >= 0 {
			p.extract(n, line[m[2*i]:m[2*i+1]], false)
		}
	}
	return true
}

// patternParser makes labels of what stands between literals; it stops at the first literal that is not there.
type patternParser struct{ parts []syntax.PatternPart }

func newPattern(s *syntax.Pattern) (stage, error) {
	parts, err := syntax.SplitPattern(s.Pattern)
	return &patternParser{parts}, err
}

func (s *patternParser) run(p *Pipeline) bool {
	rest := p.str()
	if lit := s.parts[0]; !lit.Capture && !strings.HasPrefix(rest, lit.Text) {
		return true
	}
	for i, part := range s.parts {
		if !part.Capture {
			if i == 0 {
				rest = rest[len(part.Text):]
			}
			continue
		}
		value := rest
		if i+1 < len(s.parts) {
			lit := s.parts[i+1].Text
			n := strings.Index(rest, lit)
			if n < 0 {
				return true
			}
			value, rest = rest[:n], rest[n+len(lit):]
		}
		if part.Text != "_" {
			p.extract(part.Text, value, false)
		}
	}
	return true
}

// decolorize takes ANSI sequences away.
type decolorize struct{}

func (decolorize) run(p *Pipeline) bool {
	if s := p.str(); strings.IndexByte(s, 0x1b) >= 0 {
		p.setLine(decolorized(s))
	}
	return true
}

// decolorized leaves out each ESC [ parameters letter.
func decolorized(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '[' {
			j := i + 2
			for j < len(s) && s[j] >= 0x20 && s[j] <= 0x3f {
				j++
			}
			if j < len(s) && s[j] >= 0x40 && s[j] <= 0x7e {
				i = j + 1
				continue
			}
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}
