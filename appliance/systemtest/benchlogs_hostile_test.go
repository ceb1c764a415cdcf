package systemtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/triward/triward/agent/wire"
)

// hostile is a corpus without anything to gain from: what stands behind each = never comes again.
func (c *corpus) hostile(n int) *corpus {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	random := func(dst []byte, rng *rand.Rand, n int, of string) []byte {
		for range n {
			dst = append(dst, of[rng.IntN(len(of))])
		}
		return dst
	}
	line := func(_ *corpus, rng *rand.Rand, at time.Time) ([]byte, []wire.Label) {
		b := at.AppendFormat(nil, time.RFC3339Nano)
		b = random(append(b, " session="...), rng, 24, alphabet)
		b = random(append(b, " user="...), rng, 12, alphabet[:26])
		b = random(append(b, " token="...), rng, 40, "0123456789abcdef")
		return random(append(b, " did something"...), rng, rng.IntN(3), alphabet), nil
	}
	return &corpus{n: n, day: c.day, rare: 2 * n, kinds: []corpusKind{{"/var/log/hostile.log", 100, line}}}
}

// fedSystem is a system that takes a corpus.
type fedSystem interface {
	feed(ctx context.Context) error
	rest(ctx context.Context) error
	pid() int
	stored(ctx context.Context) (float64, error)
}

// costOf feeds a system and returns the seconds of CPU until it is at rest, and the bytes that it has stored.
func costOf(ctx context.Context, s fedSystem) (cpu, disk float64, err error) {
	before, err := cpuSeconds(s.pid())
	if err != nil {
		return 0, 0, err
	}
	if err := s.feed(ctx); err != nil {
		return 0, 0, err
	}
	if err := s.rest(ctx); err != nil {
		return 0, 0, err
	}
	after, err := cpuSeconds(s.pid())
	if err != nil {
		return 0, 0, err
	}
	disk, err = s.stored(ctx)
	return after - before, disk, err
}

func (o *ourLogs) stored(ctx context.Context) (sum float64, err error) {
	parts, err := o.bytesByPart(ctx)
	for _, p := range parts {
		sum += p.bytes
	}
	return sum, err
}

// hostileLines measures what lines cost that are made to cost.
func (b *benchLogs) hostileLines(ctx context.Context) error {
	c := b.c.hostile(max(b.c.n/10, 1000))
	b.logf("%d hostile lines", c.n)
	o, err := startOurs(ctx, c, b.bin, b.t.TempDir(), 1)
	if err != nil {
		return err
	}
	cpu, disk, err := costOf(ctx, o)
	var parts []benchPart
	if err == nil {
		parts, err = o.bytesByPart(ctx)
	}
	o.stop()
	if err != nil {
		return err
	}
	line := float64(c.n)
	b.say("| %d hostile lines: random letters and digits behind each `=` | Triward, 1 node | VictoriaLogs | goal |\n|---|--:|--:|--:|", c.n)
	if b.peer == "" {
		b.say("| CPU-s a million lines | %.2f | | |\n| store, bytes a line | %.1f | | |\n", 1e6*cpu/line, disk/line)
		return nil
	}
	p, err := startPeer(ctx, c, b.peer, b.t.TempDir())
	if err != nil {
		return err
	}
	peerCPU, peerDisk, err := costOf(ctx, p)
	if err := errors.Join(err, p.stop()); err != nil {
		return err
	}
	b.say("| CPU-s a million lines | %.2f | %.2f | |", 1e6*cpu/line, 1e6*peerCPU/line)
	b.say("| store, bytes a line | %.1f | %.1f | %s |", disk/line, peerDisk/line, goal(disk/line, peerDisk/line, "%.1f"))
	for _, p := range parts {
		b.say("| of that, %s | %.2f | | |", p.name, p.bytes/line)
	}
	b.say("")
	return nil
}
