package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/triward/triward/appliance/auth"
)

func TestTheBusiestSenderIsNamed(t *testing.T) {
	var b busiest
	at := time.Unix(1_700_000_000, 0)
	loud := &auth.Agent{ID: "loud", Hostname: "loud"}
	if a, _, _ := b.refuse(at); a != nil {
		t.Errorf("%v is to blame for nothing", a)
	}
	for i := range 5000 { // many more than are counted
		b.note(&auth.Agent{ID: fmt.Sprint(i)}, 100, at)
		if i%2 == 0 {
			b.note(loud, 300, at)
		}
	}
	if n := len(b.now.by); n > shareMost {
		t.Errorf("%d agents are counted", n)
	}
	if a, part, refused := b.refuse(at); a != loud || part < 0.5 || part > 1 || refused != 2 {
		t.Errorf("%v sent %f, %d refused", a, part, refused)
	}
	if a, _, _ := b.refuse(at.Add(time.Second)); a != nil {
		t.Error("told twice at once")
	}
	later := at.Add(shareTells + shareSpan)
	for i := range 100 {
		b.note(&auth.Agent{ID: fmt.Sprint("new", i)}, 100, later)
	}
	if a, _, _ := b.refuse(later); a != nil {
		t.Errorf("%s is named though all send alike", a.ID)
	}
}
