package snapshot

import (
	"sync"
	"testing"
)

// Whoever asks for a generation has it alone.
func TestGenerationsAreTakenByOneEach(t *testing.T) {
	l := NewLayout(t.TempDir())
	const many = 50
	var names [many]string
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			var err error
			if names[i], err = l.Next(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, name := range names {
		if seen[name] {
			t.Errorf("%s was given twice", name)
		}
		seen[name] = true
	}
}
