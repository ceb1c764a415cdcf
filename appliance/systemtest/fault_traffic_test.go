package systemtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// traffic is senders that go on through all faults of a trial, and the ledger of what was acknowledged to them.
type traffic struct {
	ledger   *ledger
	senders  []*sender
	fillers  []*sender // which are not compared
	stop     context.CancelFunc
	ended    chan error
	still    stillness
	stopped  bool
	compared bool
}

// pace is how often a sender of a trial sends.
const pace = 25 * time.Millisecond

// send begins the traffic of n senders, each of which begins with another node.
func (tr *trial) send(ctx context.Context, n int) error {
	l, err := newLedger(filepath.Join(tr.dir, "ledger"))
	if err != nil {
		return err
	}
	tr.atEnd(func() { _ = l.close() })
	tf := &traffic{ledger: l, ended: make(chan error, n+tr.fillers)}
	for i := range n + tr.fillers {
		s, err := tr.sender(ctx, l, i)
		if err != nil {
			return fmt.Errorf("register a sender: %w", err)
		}
		if i < n {
			tf.senders = append(tf.senders, s)
			continue
		}
		s.padding = 16 << 10
		tf.fillers = append(tf.fillers, s)
	}
	running, stop := context.WithCancel(ctx)
	tf.stop = stop
	tr.traffic = tf
	for _, s := range slices.Concat(tf.senders, tf.fillers) {
		go func() { tf.ended <- s.run(running, cmp.Or(tr.pace, pace)) }()
	}
	tr.atEnd(tf.end)
	tf.still.watch(tr.acks)
	return tr.progress(ctx, 10)
}

// sender registers sender i.
func (tr *trial) sender(ctx context.Context, l *ledger, i int) (*sender, error) {
	c := tr.c
	urls := make([]string, len(c.Nodes))
	for j := range urls {
		urls[j] = c.Nodes[(i+j)%len(urls)].AgentURL
	}
	conf := c.tlsConf.Clone()
	conf.ServerName = "localhost" // every node is called that too, whoever carries the connection
	s, err := newSender(fmt.Sprintf("sender%d", i), urls, conf, l)
	if err != nil {
		return nil, err
	}
	s.repeats = cmp.Or(tr.repeats, 25)
	token, err := c.agentToken(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.register(ctx, token, seriesPerSender); err != nil {
		return nil, err
	}
	for j, u := range s.nodes {
		s.nodes[j] = cmp.Or(tr.through[u], u)
	}
	return s, nil
}

// end stops the senders and waits for them.
func (tf *traffic) end() {
	if tf.stopped {
		return
	}
	tf.stopped = true
	tf.stop()
	tf.still.end()
	errs := make([]error, 0, cap(tf.ended))
	for range cap(tf.ended) {
		errs = append(errs, <-tf.ended)
	}
	for _, err := range errs {
		tf.ended <- err
	}
}

// anew begins to count what is wrong from nothing and returns what ends that: what was found before is not counted again then.
func (tr *trial) anew() func() {
	before := tr.violations
	tr.violations = violations{}
	return func() { tr.violations.raise(&before) }
}

// compare ends the traffic and compares what every node answers with the ledger.
func (tr *trial) compare(ctx context.Context) error {
	tf, v := tr.traffic, &tr.violations
	defer tr.anew()()
	tf.end()
	for range cap(tf.ended) {
		switch err := <-tf.ended; {
		case errors.Is(err, errForgotten):
			v.add(&v.forgotten, "%v", err)
		case err != nil:
			v.add(&v.broken, "a sender gave up: %v", err)
		}
	}
	for _, s := range tf.senders {
		tr.acked += tf.ledger.of(s.name).acked
	}
	tf.compared = true
	if err := tr.sameState(ctx); err != nil {
		return fmt.Errorf("compare the nodes with one another: %w", err)
	}
	if err := tr.c.compare(ctx, tf.ledger, tf.senders, v); err != nil {
		return fmt.Errorf("compare the nodes with the ledger: %w", err)
	}
	return nil
}

// progress returns when every sender got n more acknowledgements.
func (tr *trial) progress(ctx context.Context, n int) error {
	senders := tr.traffic.senders
	goal := make([]int, len(senders))
	for i, s := range senders {
		goal[i] = s.ackCount() + n
	}
	var gone error
	err := until(ctx, 2*time.Minute, func(context.Context) error {
		for i, s := range senders {
			if gone = s.failure(); gone != nil {
				return nil
			}
			if got := s.ackCount(); got < goal[i] && !s.gaveUp() {
				return fmt.Errorf("%s has %d acknowledgements, waiting for %d", s.name, got, goal[i])
			}
		}
		return nil
	})
	if gone != nil {
		return fmt.Errorf("a sender gave up: %w", gone)
	}
	return err
}

// acks is how many batches were acknowledged so far.
func (tr *trial) acks() (n int) {
	for _, s := range tr.traffic.senders {
		n += s.ackCount()
	}
	return n
}

// allReady returns when every node says that it is ready.
func (tr *trial) allReady(ctx context.Context) error {
	for i := range tr.c.Nodes {
		if err := tr.c.ready(ctx, &tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

// stillness is the longest time during which nobody's batch was acknowledged. A sender that waits for a node which gives no
// answer at all does not count while others are served.
type stillness struct {
	mu      sync.Mutex
	longest time.Duration
	since   time.Time
	stop    chan struct{}
	done    sync.WaitGroup
}

// watch looks fifty times a second at how many acknowledgements there were, until end.
func (s *stillness) watch(acks func() int) {
	s.stop, s.since = make(chan struct{}), time.Now()
	s.done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		seen := -1
		for {
			select {
			case <-tick.C:
			case <-s.stop:
				return
			}
			now := acks()
			s.mu.Lock()
			s.longest = max(s.longest, time.Since(s.since))
			if now != seen {
				seen, s.since = now, time.Now()
			}
			s.mu.Unlock()
		}
	})
}

// take returns the longest time since the last call.
func (s *stillness) take() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := max(s.longest, time.Since(s.since))
	s.longest = 0
	return d
}

func (s *stillness) end() {
	close(s.stop)
	s.done.Wait()
}
