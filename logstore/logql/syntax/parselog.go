package syntax

import (
	"net/netip"
	"slices"
	"strings"
)

func (p *parser) log() (*Log, error) {
	sel, err := p.selector()
	if err != nil {
		return nil, err
	}
	e := &Log{Selector: sel}
	e.Stages, err = p.stages(nil)
	return e, err
}

var lineOps = []LineOp{LineContains, LineNot, LineRegex, LineNotRegex, LinePattern, LineNotPattern}

// stages reads a pipeline; unwrap may be part of it when it is given a place.
func (p *parser) stages(unwrap **Unwrap) (out []Stage, err error) {
	into := &out
	for n := 0; ; n++ {
		t := p.peek()
		if n > maxStages {
			return nil, p.fail(t, "more than %d stages", maxStages)
		}
		var s Stage
		switch {
		case t.kind == tokOp && slices.Contains(lineOps, LineOp(t.text)):
			if into != &out {
				return nil, p.fail(t, "only label filters may follow unwrap")
			}
			p.at++
			s, err = p.lineFilter(LineOp(t.text))
		case t.is("|") && p.ahead(1).word("unwrap") && !p.compares(2):
			p.at += 2
			if unwrap == nil {
				return nil, p.fail(t, "unwrap makes numbers: it goes into a function such as sum_over_time(… | unwrap label [5m])")
			}
			if *unwrap != nil {
				return nil, p.fail(t, "there is a second unwrap")
			}
			if *unwrap, err = p.unwrap(); err != nil {
				return nil, err
			}
			into = &(*unwrap).After
			continue
		case t.is("|"):
			p.at++
			s, err = p.stage()
			if _, ok := s.(*LabelFilter); err == nil && !ok && into != &out {
				return nil, p.fail(t, "only label filters may follow unwrap")
			}
		default:
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		*into = append(*into, s)
	}
}

// compares reports whether the token n places ahead compares a label, so that the word before it is a label's name.
func (p *parser) compares(n int) bool {
	t := p.ahead(n)
	return t.kind == tokOp && slices.Contains([]string{"=", "==", "!=", "=~", "!~", ">", ">=", "<", "<="}, t.text)
}

// differs reports whether the token n places ahead is != or !~, which behind the name of a stage begin a line filter.
func (p *parser) differs(n int) bool { t := p.ahead(n); return t.is("!=") || t.is("!~") }

var stageNames = []string{"json", "logfmt", "regexp", "pattern", "unpack", "decolorize", "line_format", "label_format", "drop", "keep", "unwrap"}

func isStage(name string) bool { return slices.Contains(stageNames, strings.ToLower(name)) }

func (p *parser) lineFilter(op LineOp) (Stage, error) {
	f := &LineFilter{Op: op}
	for {
		a, err := p.lineAlt(op)
		if err != nil {
			return nil, err
		}
		f.Alts = append(f.Alts, a)
		if !p.acceptWord("or") {
			return f, nil
		}
	}
}

func (p *parser) lineAlt(op LineOp) (LineAlt, error) {
	if t := p.peek(); t.word("ip") && p.ahead(1).is("(") {
		if op != LineContains && op != LineNot {
			return LineAlt{}, p.fail(t, "ip goes with |= and != only")
		}
		spec, err := p.ip()
		return LineAlt{spec, true}, err
	}
	s, t, err := p.str("behind " + string(op))
	if err != nil {
		return LineAlt{}, err
	}
	switch op {
	case LineRegex, LineNotRegex:
		_, err = p.regex(s, t)
	case LinePattern, LineNotPattern:
		var parts []PatternPart
		if parts, err = SplitPattern(s); err == nil && slices.ContainsFunc(parts, func(x PatternPart) bool { return x.Capture && x.Text != "_" }) {
			return LineAlt{}, p.fail(t, "a pattern that filters has only <_>, no names")
		}
		if err != nil {
			err = p.fail(t, "%v", err)
		}
	}
	return LineAlt{Text: s}, err
}

// ip reads ip("…").
func (p *parser) ip() (string, error) {
	p.at++
	if err := p.expect("(", "behind ip"); err != nil {
		return "", err
	}
	s, t, err := p.str("in ip")
	if err != nil {
		return "", err
	}
	if _, err := ParseIPSpec(s); err != nil {
		return "", p.fail(t, "%v", err)
	}
	return s, p.expect(")", "behind the addresses")
}

func (p *parser) stage() (Stage, error) {
	t := p.peek()
	if t.kind != tokIdent || p.compares(1) && !(isStage(t.text) && p.differs(1)) {
		return p.labelFilter()
	}
	switch strings.ToLower(t.text) {
	case "json":
		p.at++
		fields, err := p.extracts(jsonPath)
		return &JSON{fields}, err
	case "logfmt":
		p.at++
		return p.logfmt()
	case "regexp":
		p.at++
		return p.regexpStage()
	case "pattern":
		p.at++
		return p.patternStage()
	case "unpack":
		p.at++
		return &Unpack{}, nil
	case "decolorize":
		p.at++
		return &Decolorize{}, nil
	case "line_format":
		p.at++
		s, t, err := p.str("behind line_format")
		if err == nil {
			err = p.template(s, t)
		}
		return &LineFormat{s}, err
	case "label_format":
		p.at++
		return p.labelFormat()
	case "drop", "keep":
		p.at++
		items, err := p.nameMatches()
		if strings.EqualFold(t.text, "drop") {
			return &Drop{items}, err
		}
		return &Keep{items}, err
	}
	return nil, p.fail(t, "there is no stage %q: json, logfmt, regexp, pattern, unpack, decolorize, line_format, label_format, drop, keep, unwrap or a label filter is expected", t.text)
}

// extracts reads a, b="path", …; it may be empty.
func (p *parser) extracts(check func(string) error) (out []Extract, err error) {
	for p.peek().kind == tokIdent && (p.ahead(1).is("=") && p.ahead(2).kind == tokString || !p.compares(1) || p.differs(1)) {
		label, t, err := p.name("in a list of labels")
		if err != nil {
			return nil, err
		}
		path, at := label, t
		if p.accept("=") {
			if path, at, err = p.str("behind ="); err != nil {
				return nil, err
			}
		}
		if err := check(path); err != nil {
			return nil, p.fail(at, "%v", err)
		}
		if slices.ContainsFunc(out, func(e Extract) bool { return e.Label == label }) {
			return nil, p.fail(t, "label %s is extracted twice", label)
		}
		if p.named++; p.named > maxExtracts {
			return nil, p.fail(t, "more than %d labels are named behind json and logfmt", maxExtracts)
		}
		out = append(out, Extract{label, path})
		if !p.accept(",") {
			break
		}
		if p.peek().kind != tokIdent {
			return nil, p.fail(p.peek(), "a label is expected behind the comma, not %s", p.peek())
		}
	}
	return out, nil
}

func jsonPath(path string) error {
	_, err := ParsePath(path)
	return err
}

func (p *parser) logfmt() (Stage, error) {
	s := &Logfmt{}
	for p.peek().kind == tokFlag {
		switch t := p.take(); t.text {
		case "--strict":
			s.Strict = true
		case "--keep-empty":
			s.KeepEmpty = true
		default:
			return nil, p.fail(t, "logfmt knows --strict and --keep-empty, not %s", t.text)
		}
	}
	var err error
	s.Fields, err = p.extracts(func(key string) error {
		if key == "" || strings.ContainsAny(key, " \t\"=") {
			return errKey
		}
		return nil
	})
	return s, err
}

func (p *parser) regexpStage() (Stage, error) {
	s, t, err := p.str("behind regexp")
	if err != nil {
		return nil, err
	}
	re, err := p.regex(s, t)
	if err != nil {
		return nil, err
	}
	named, seen := 0, map[string]bool{}
	for _, n := range re.SubexpNames() {
		if n == "" {
			continue
		}
		if !IsLabelName(n) {
			return nil, p.fail(t, "group %q is no label name", n)
		}
		if seen[n] {
			return nil, p.fail(t, "group %q is there twice", n)
		}
		seen[n] = true
		named++
	}
	if named == 0 {
		return nil, p.fail(t, "regexp needs at least one named group such as (?P<status>\\d+)")
	}
	return &Regexp{s}, nil
}

func (p *parser) patternStage() (Stage, error) {
	s, t, err := p.str("behind pattern")
	if err != nil {
		return nil, err
	}
	parts, err := SplitPattern(s)
	if err != nil {
		return nil, p.fail(t, "%v", err)
	}
	named := map[string]bool{}
	for _, x := range parts {
		if x.Capture && x.Text != "_" {
			if named[x.Text] {
				return nil, p.fail(t, "capture <%s> is there twice", x.Text)
			}
			named[x.Text] = true
		}
	}
	if len(named) == 0 {
		return nil, p.fail(t, "pattern needs at least one named capture such as <status>")
	}
	return &Pattern{s}, nil
}

func (p *parser) template(s string, t token) error {
	if err := checkTemplate(s); err != nil {
		return p.fail(t, "bad template: %v", err)
	}
	return nil
}

func (p *parser) labelFormat() (Stage, error) {
	f := &LabelFormat{}
	for {
		dst, t, err := p.name("behind label_format")
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(f.Items, func(it FormatItem) bool { return it.Dst == dst }) {
			return nil, p.fail(t, "label %s may stand only once in a label_format; use a second one", dst)
		}
		if dst == ErrorLabel || dst == ErrorDetails {
			return nil, p.fail(t, "label %s is not for setting", dst)
		}
		if err := p.expect("=", "behind the label"); err != nil {
			return nil, err
		}
		it := FormatItem{Dst: dst}
		switch v := p.take(); v.kind {
		case tokIdent:
			it.Src = v.text
		case tokString:
			it.Template, it.Text = true, v.text
			if err := p.template(v.text, v); err != nil {
				return nil, err
			}
		default:
			return nil, p.fail(v, "a label or a template in quotes is expected behind =, not %s", v)
		}
		f.Items = append(f.Items, it)
		if !p.accept(",") {
			return f, nil
		}
	}
}

func (p *parser) nameMatches() (out []NameMatch, err error) {
	for {
		name, _, err := p.name("behind drop or keep")
		if err != nil {
			return nil, err
		}
		it := NameMatch{Name: name}
		if p.compares(0) {
			if it.Matcher, err = p.matcher(name); err != nil {
				return nil, err
			}
		}
		out = append(out, it)
		if !p.accept(",") {
			return out, nil
		}
	}
}

func (p *parser) unwrap() (*Unwrap, error) {
	name, t, err := p.name("behind unwrap")
	if err != nil {
		return nil, err
	}
	if !p.accept("(") {
		return &Unwrap{Label: name}, nil
	}
	convert := strings.ToLower(name)
	switch convert {
	case "duration", "bytes":
	case "duration_seconds":
		convert = "duration"
	default:
		return nil, p.fail(t, "unwrap knows duration(label), duration_seconds(label) and bytes(label), not %s", t.text)
	}
	label, _, err := p.name("in " + t.text)
	if err != nil {
		return nil, err
	}
	return &Unwrap{Label: label, Convert: convert}, p.expect(")", "behind the label")
}

// Names of labels that tell of mistakes while a line was looked at.
const (
	ErrorLabel   = "__error__"
	ErrorDetails = "__error_details__"
)

func (p *parser) labelFilter() (Stage, error) {
	f, err := p.preds(0)
	return &LabelFilter{f}, err
}

// preds reads predicates joined by and, or, a comma or nothing, from left to right.
func (p *parser) preds(depth int) (Pred, error) {
	left, err := p.pred(depth)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		or := false
		switch t := p.peek(); {
		case t.word("or"):
			or = true
			p.at++
		case t.word("and"), t.is(","):
			p.at++
		case t.is("("), t.kind == tokIdent && p.compares(1):
		default:
			return left, nil
		}
		if n > maxStages {
			return nil, p.fail(p.peek(), "more than %d conditions in a row", maxStages)
		}
		right, err := p.pred(depth)
		if err != nil {
			return nil, err
		}
		left = &PredBoth{or, left, right}
	}
}

func (p *parser) pred(depth int) (Pred, error) {
	if depth > maxDepth {
		return nil, p.fail(p.peek(), "nested deeper than %d", maxDepth)
	}
	if p.accept("(") {
		f, err := p.preds(depth + 1)
		if err != nil {
			return nil, err
		}
		return f, p.expect(")", "to close the parenthesis")
	}
	name, _, err := p.name("in a label filter")
	if err != nil {
		return nil, err
	}
	op, v := p.peek(), p.ahead(1)
	if !p.compares(0) {
		return nil, p.fail(op, "one of = != =~ !~ > >= < <= is expected behind label %s, not %s", name, op)
	}
	switch {
	case v.kind == tokString:
		m, err := p.matcher(name)
		return &PredMatch{m}, err
	case v.word("ip") && p.ahead(2).is("("):
		if !op.is("=") && !op.is("!=") && !op.is("==") {
			return nil, p.fail(op, "ip goes with = and != only")
		}
		p.at++
		spec, err := p.ip()
		return &PredIP{name, op.is("!="), spec}, err
	}
	return p.numberPred(name)
}

func (p *parser) numberPred(name string) (Pred, error) {
	op := p.take()
	if op.is("=~") || op.is("!~") {
		return nil, p.fail(p.peek(), "a string is expected behind %s, not %s", op.text, p.peek())
	}
	f := &PredNumber{Name: name, Op: op.text}
	if f.Op == "=" {
		f.Op = "=="
	}
	sign := 1.0
	if p.accept("-") {
		sign, f.Text = -1, "-"
	} else {
		p.accept("+")
	}
	t := p.take()
	if t.kind != tokNumber {
		return nil, p.fail(t, "a number, a duration, a size or a string in quotes is expected behind %s, not %s", op.text, t)
	}
	f.Text += t.text
	if v, err := parseNumber(t.text); err == nil {
		f.Value = sign * v
		return f, nil
	}
	if d, err := ParseDuration(t.text); err == nil {
		f.Value, f.Unit = sign*d.Seconds(), UnitDuration
		return f, nil
	}
	if b, err := ParseBytes(t.text); err == nil {
		f.Value, f.Unit = sign*b, UnitBytes
		return f, nil
	}
	return nil, p.fail(t, "%s is no number, duration (250ms, 1h30m) or size (20KB, 1.5GiB)", t)
}

// IPSpec is an address, a range of addresses or a network.
type IPSpec struct{ low, high netip.Addr }

// ParseIPSpec reads 192.168.0.1, 192.168.0.1-192.168.0.23, 192.168.0.0/16 and the same of IPv6.
func ParseIPSpec(s string) (IPSpec, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return IPSpec{a, a}, nil
	}
	if n, err := netip.ParsePrefix(s); err == nil {
		return IPSpec{n.Masked().Addr(), lastOf(n)}, nil
	}
	if a, b, ok := strings.Cut(s, "-"); ok {
		low, lerr := netip.ParseAddr(strings.TrimSpace(a))
		high, herr := netip.ParseAddr(strings.TrimSpace(b))
		if lerr == nil && herr == nil && low.Is4() == high.Is4() && !high.Less(low) {
			return IPSpec{low, high}, nil
		}
	}
	return IPSpec{}, errIP
}

func lastOf(n netip.Prefix) netip.Addr {
	b := n.Masked().Addr().AsSlice()
	for i := n.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Holds reports whether the address is one of them.
func (s IPSpec) Holds(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.Is4() == s.low.Is4() && !a.Less(s.low) && !s.high.Less(a)
}
