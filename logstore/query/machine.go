package query

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/logstore/block"
)

// machine runs a regular expression over a template whose slots may be any words of their characters: where that does not match, no line does.
type machine struct {
	prog *syntax.Prog
	word []block.Classes // the characters of a word that each instruction may let pass
	free bool            // what matches does not depend on what is around it

	list, next, grown set
	stack             []uint32
	steps             int
}

// Bounds of a machine: beyond, lines are decided one by one.
const (
	maxMachine = 4096    // instructions
	maxSteps   = 1 << 20 // for one template
)

// machine returns the machine of a leaf, nil when there is none.
func (f *Filter) machine() *machine {
	var expr string
	switch {
	case f.op == opLiteral && utf8.ValidString(f.literal):
		expr = regexp.QuoteMeta(f.literal)
	case f.op == opRegex:
		expr = f.re.String()
	default:
		return nil
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil || len(prog.Inst) > maxMachine {
		return nil
	}
	m := &machine{prog: prog, word: make([]block.Classes, len(prog.Inst)), free: true}
	for i := range prog.Inst {
		m.word[i] = passes(&prog.Inst[i])
		m.free = m.free && prog.Inst[i].Op != syntax.InstEmptyWidth
	}
	for _, s := range []*set{&m.list, &m.next, &m.grown} {
		s.sparse = make([]uint32, len(prog.Inst))
	}
	return m
}

// passes returns which characters of a word may pass the instruction.
func passes(inst *syntax.Inst) (c block.Classes) {
	switch inst.Op {
	case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return ^block.Classes(0)
	case syntax.InstRune, syntax.InstRune1:
		for _, r := range inst.Rune {
			if r >= utf8.RuneSelf {
				c = block.Wide
			}
		}
		for _, k := range []struct {
			c     block.Classes
			chars string
		}{
			{block.Digit, "0123456789"},
			{block.LowerHex, "abcdef"},
			{block.UpperHex, "ABCDEF"},
			{block.Lower, "ghijklmnopqrstuvwxyz"},
			{block.Upper, "GHIJKLMNOPQRSTUVWXYZ"},
		} {
			if strings.ContainsFunc(k.chars, inst.MatchRune) {
				c |= k.c
			}
		}
		if inst.MatchRune('k') || inst.MatchRune('s') { // with another case outside ASCII
			c |= block.Wide
		}
	}
	return c
}

// set is a set of instructions.
type set struct {
	sparse, dense []uint32
}

func (s *set) has(pc uint32) bool {
	i := s.sparse[pc]
	return int(i) < len(s.dense) && s.dense[i] == pc
}

func (s *set) add(pc uint32) bool {
	if s.has(pc) {
		return false
	}
	s.sparse[pc] = uint32(len(s.dense))
	s.dense = append(s.dense, pc)
	return true
}

// place says where in a line the machine is.
type place struct{ begin, end bool }

// possible reports whether a line of the template may match.
func (m *machine) possible(t *block.Shape) bool {
	m.steps = 0
	m.list.dense = m.list.dense[:0]
	slots := t.Slots()
	tail := len(t.Piece(slots)) == 0 // the line may end with the last slot
	if m.enter(&m.list, uint32(m.prog.Start), place{begin: true}) {
		return true
	}
	for i := range slots + 1 {
		piece := t.Piece(i)
		for at := 0; at < len(piece); {
			r, n := utf8.DecodeRune(piece[at:])
			at += n
			if m.rune(r, place{end: i == slots && at == len(piece)}) {
				return true
			}
		}
		if i < slots {
			if m.slot(t.Classes(i), place{end: i == slots-1 && tail}) {
				return true
			}
		}
	}
	return false
}

// enter adds an instruction and all that follow it without a character; it reports whether the machine may have matched.
func (m *machine) enter(s *set, pc uint32, at place) bool {
	m.stack = append(m.stack[:0], pc)
	for len(m.stack) > 0 {
		pc := m.stack[len(m.stack)-1]
		m.stack = m.stack[:len(m.stack)-1]
		if m.steps++; m.steps > maxSteps {
			return true
		}
		if !s.add(pc) {
			continue
		}
		switch inst := &m.prog.Inst[pc]; inst.Op {
		case syntax.InstMatch:
			return true
		case syntax.InstAlt, syntax.InstAltMatch:
			m.stack = append(m.stack, inst.Out, inst.Arg)
		case syntax.InstCapture, syntax.InstNop:
			m.stack = append(m.stack, inst.Out)
		case syntax.InstEmptyWidth:
			switch op := syntax.EmptyOp(inst.Arg); {
			case op&syntax.EmptyBeginText != 0 && !at.begin, op&syntax.EmptyEndText != 0 && !at.end:
			default: // may be
				m.stack = append(m.stack, inst.Out)
			}
		}
	}
	return false
}

// rune passes a character of the template.
func (m *machine) rune(r rune, after place) bool {
	m.next.dense = m.next.dense[:0]
	for _, pc := range m.list.dense {
		switch inst := &m.prog.Inst[pc]; inst.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			if inst.MatchRune(r) && m.enter(&m.next, inst.Out, after) {
				return true
			}
		}
	}
	if m.steps += len(m.list.dense); m.steps > maxSteps {
		return true
	}
	m.list, m.next = m.next, m.list
	return m.enter(&m.list, uint32(m.prog.Start), after) // a match may begin anywhere
}

// slot passes one or more characters of a word that has such characters.
func (m *machine) slot(has block.Classes, after place) bool {
	m.grown.dense = m.grown.dense[:0]
	from := m.list.dense
	for done := 0; ; {
		for _, pc := range from {
			if m.word[pc]&has != 0 && m.enter(&m.grown, m.prog.Inst[pc].Out, after) {
				return true
			}
		}
		if m.enter(&m.grown, uint32(m.prog.Start), after) {
			return true
		}
		if done == len(m.grown.dense) {
			break
		}
		// What was added is passed by the next character of the word.
		from = append([]uint32(nil), m.grown.dense[done:]...)
		done = len(m.grown.dense)
	}
	m.list, m.grown = m.grown, m.list
	return false
}
