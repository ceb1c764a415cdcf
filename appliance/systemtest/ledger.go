package systemtest

import (
	"fmt"
	"os"
	"sync"
)

// ledger is the record outside the system under test of what was sent and what was acknowledged. Each
// acknowledgement is fsynced before the sender goes on.
type ledger struct {
	mu   sync.Mutex
	file *os.File
	all  map[string]*account
}

// account is what the ledger knows of one sender: sequences 1..sent were tried, 1..acked acknowledged; those
// between are unknown: they may be stored once or not at all.
type account struct{ sent, acked uint64 }

func newLedger(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &ledger{file: f, all: make(map[string]*account)}, nil
}

func (l *ledger) account(name string) *account {
	a := l.all[name]
	if a == nil {
		a = new(account)
		l.all[name] = a
	}
	return a
}

func (l *ledger) sent(name string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.account(name).sent = seq
}

func (l *ledger) acknowledged(name string, seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.account(name).acked = seq
	if _, err := fmt.Fprintf(l.file, "%s %d\n", name, seq); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync ledger: %w", err)
	}
	return nil
}

// of returns a copy of the account of name.
func (l *ledger) of(name string) account {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.account(name)
}

func (l *ledger) close() error { return l.file.Close() }
