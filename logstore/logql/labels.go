package logql

import (
	"strconv"
	"strings"

	"github.com/triward/triward/agent/wire"
)

// appendKey appends what tells one set of sorted labels from another.
func appendKey(dst []byte, ls []wire.Label) []byte {
	for i := range ls {
		dst = append(dst, ls[i].Name...)
		dst = append(dst, 0xff)
		dst = append(dst, ls[i].Value...)
		dst = append(dst, 0xff)
	}
	return dst
}

// cloneLabels copies labels together with their strings, so that they hold no line.
func cloneLabels(ls []wire.Label) wire.Labels {
	if len(ls) == 0 {
		return nil
	}
	n := 0
	for i := range ls {
		n += len(ls[i].Name) + len(ls[i].Value)
	}
	var b strings.Builder
	b.Grow(n)
	for i := range ls {
		b.WriteString(ls[i].Name)
		b.WriteString(ls[i].Value)
	}
	all, out := b.String(), make(wire.Labels, len(ls))
	for i := range ls {
		k := len(ls[i].Name)
		out[i].Name, all = all[:k], all[k:]
		k = len(ls[i].Value)
		out[i].Value, all = all[:k], all[k:]
	}
	return out
}

func compareLabels(a, b wire.Labels) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if c := strings.Compare(a[i].Name, b[i].Name); c != 0 {
			return c
		}
		if c := strings.Compare(a[i].Value, b[i].Value); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}

// labelText writes labels as a selector does, cut to a readable length.
func labelText(ls wire.Labels) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, l := range ls {
		if i > 0 {
			b.WriteString(", ")
		}
		if b.Len() > 500 {
			b.WriteString("…")
			break
		}
		v := l.Value
		if len(v) > 80 {
			v = strings.ToValidUTF8(v[:80], "") + "…"
		}
		b.WriteString(l.Name + "=" + strconv.Quote(v))
	}
	b.WriteByte('}')
	return b.String()
}
