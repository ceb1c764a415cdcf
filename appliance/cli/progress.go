package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progressEvery is how often a line of progress is drawn again.
const progressEvery = 200 * time.Millisecond

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress shows on a terminal how much has passed and how fast; elsewhere it is silent.
type progress struct {
	w     io.Writer
	show  bool
	total int64 // 0 when it is not known
	note  string

	mu    sync.Mutex
	phase string
	done  int64
	began time.Time
	drawn time.Time
}

func newProgress(w io.Writer, phase string, total int64) *progress {
	return &progress{w: w, show: isTerminal(w), total: total, phase: phase, began: time.Now()}
}

// reader counts what is read of r.
func (p *progress) reader(r io.Reader) io.Reader { return &countedReader{r, p} }

type countedReader struct {
	r io.Reader
	p *progress
}

// Read implements io.Reader.
func (c *countedReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.p.add(int64(n))
	return n, err
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if now := time.Now(); p.show && now.Sub(p.drawn) >= progressEvery {
		p.drawn = now
		p.draw(now)
	}
}

// at shows how far somebody else is.
func (p *progress) at(phase string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.done, p.total = phase, done, total
	if p.show {
		p.draw(time.Now())
	}
}

// enter begins another phase.
func (p *progress) enter(phase string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = phase
	if p.show {
		p.draw(time.Now())
	}
}

func (p *progress) draw(now time.Time) {
	rate := float64(p.done) / max(now.Sub(p.began).Seconds(), 0.001) / 1e6
	line := fmt.Sprintf("%s: %s", p.phase, bytesText(p.done))
	if p.total > 0 {
		line += fmt.Sprintf(" of %s (%d%%)", bytesText(p.total), 100*p.done/p.total)
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s%s, %.1f MB/s", line, p.note, rate)
}

// end takes the line away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.show {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
