package block

import (
	"encoding/binary"
	"slices"

	"github.com/triward/triward/logstore/words"
)

// paths is the tree of the templates that several lines of a block have, by their pieces. A line that has one of them is cut by
// comparing its text with the pieces, which takes a fraction of what going over all its words takes. It says what the words would say:
// a piece of text holds the same words wherever a word, which neither reaches into it nor completes a character of it, stands
// before and behind it.
type paths struct {
	nodes [][]int32 // edges that leave a node, those that were taken last before the others
	edges []edge
}

// edge leads from a node over a piece, and over the word behind it, to another node.
type edge struct {
	piece []byte // of the text of a line
	head  head   // of piece
	cand  int32  // that ends behind the piece, -1 when a word follows
	node  int32
}

// maxTried bounds how many edges of a node are tried.
const maxTried = 32

func (p *paths) reset() {
	for i := range p.nodes {
		p.nodes[i] = p.nodes[i][:0]
	}
	p.nodes = p.nodes[:0]
	p.nodes = append(p.nodes, p.next())
	clear(p.edges) // they hold the lines of the block before
	p.edges = p.edges[:0]
}

// next returns the memory for another node.
func (p *paths) next() []int32 {
	if n := len(p.nodes); n < cap(p.nodes) {
		return p.nodes[:n+1][n][:0]
	}
	return nil
}

// addPath adds the template of a line.
func (k *cutter) addPath(text []byte, spans []span, c int32) {
	p := &k.paths
	node, at := int32(0), uint32(0)
	for _, s := range spans {
		piece := text[at:s.start]
		at = s.end
		i := slices.IndexFunc(p.nodes[node], func(e int32) bool { return p.edges[e].cand < 0 && string(p.edges[e].piece) == string(piece) })
		if i >= 0 {
			node = p.edges[p.nodes[node][i]].node
			continue
		}
		p.nodes = append(p.nodes, p.next())
		p.add(node, edge{piece: piece, head: headOf(piece), cand: -1, node: int32(len(p.nodes) - 1)})
		node = int32(len(p.nodes) - 1)
	}
	p.add(node, edge{piece: text[at:], head: headOf(text[at:]), cand: c})
}

func (p *paths) add(node int32, e edge) {
	p.nodes[node] = append(p.nodes[node], int32(len(p.edges)))
	p.edges = append(p.edges, e)
}

// walk returns the candidate of a line that has one of the paths, and appends its spans; else -1, with any spans.
func (k *cutter) walk(text []byte) int32 {
	p := &k.paths
	node, at := int32(0), 0
next:
	for {
		out := p.nodes[node]
		for i, n := range out[:min(len(out), maxTried)] {
			e := &p.edges[n]
			if !begins(text[at:], e.piece, e.head) {
				continue
			}
			start := at + len(e.piece)
			end, slot := start, e.cand >= 0
			if slot {
				slot = start == len(text)
			} else {
				end, slot = slotAt(text, start)
			}
			if !slot {
				continue
			}
			if i > 0 {
				copy(out[1:i+1], out[:i])
				out[0] = n
			}
			if e.cand >= 0 {
				return e.cand
			}
			k.spans = append(k.spans, span{uint32(start), uint32(end)})
			node, at = e.node, end
			continue next
		}
		return -1
	}
}

// slotAt reports whether a slot of ASCII letters and digits begins at text[at:], where a word may begin, and where it ends.
func slotAt(text []byte, at int) (end int, ok bool) {
	end, digits := words.ASCIIRun(text, at)
	return end, end > at && (digits || at > 0 && text[at-1] == '=' || hexLetters(text[at:end]))
}

// head is the first eight bytes of a text, so that most comparisons take a single one.
type head struct{ word, mask uint64 }

func headOf(b []byte) (h head) {
	for i := range min(len(b), 8) {
		h.word |= uint64(b[i]) << (8 * i)
		h.mask |= 0xff << (8 * i)
	}
	return h
}

// begins reports whether text begins with piece, whose head is h.
func begins(text, piece []byte, h head) bool {
	if len(text) < 8 || len(text) < len(piece) {
		return len(text) >= len(piece) && string(text[:len(piece)]) == string(piece)
	}
	return binary.LittleEndian.Uint64(text)&h.mask == h.word && (len(piece) <= 8 || string(text[8:len(piece)]) == string(piece[8:]))
}
