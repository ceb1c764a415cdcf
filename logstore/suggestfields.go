package logstore

import (
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/members"
)

// suggestFieldLines are the newest lines whose texts are looked through for names of fields.
const suggestFieldLines = 2000

// textNames counts the names of fields that texts hold, for a quarter of the time.
func (g *suggester) textNames() error {
	cut := g.out.Cut
	err := g.scan(nil, g.began.Add(g.req.Budget/4), &textSampler{nameSampler: nameSampler{sampler{g: g}}})
	g.out.Cut = cut // it is a sample
	return err
}

// textSampler counts the names of fields that texts hold.
type textSampler struct {
	nameSampler
	reader members.Reader
}

func (v *textSampler) most() int                               { return min(v.g.lines, suggestFieldLines) }
func (v *textSampler) wants(int64, int64, uint64, uint64) bool { return v.lines < v.most() }
func (v *textSampler) needs() (positions, fields, text bool)   { return false, true, true }
func (v *textSampler) whole(*stream, *block.Header) bool       { return false }

func (v *textSampler) add(st *stream, l *block.Line) bool {
	for _, f := range v.reader.All(l.Text) {
		if name := string(f.Name); st.label(name) == "" && wire.Labels(l.Fields).Get(name) == "" {
			v.name(name, 1)
		}
	}
	if v.lines++; v.lines < v.most() {
		return true
	}
	v.enough()
	return false
}
