package answers

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoomIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRoom(10 << 20)
		hold := func(n int64) func() {
			t.Helper()
			release, err := r.Hold(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			return release
		}
		first := hold(6 << 20)
		if _, err := r.Hold(t.Context(), 6<<20); !errors.Is(err, ErrFull) {
			t.Errorf("beyond the room: %v", err)
		}
		// Those that wait are few, and have the room once it is free.
		got := make(chan error, waiting)
		for range waiting {
			go func() {
				release, err := r.Hold(t.Context(), 6<<20)
				if err == nil {
					release()
				}
				got <- err
			}()
		}
		synctest.Wait()
		began := time.Now()
		if _, err := r.Hold(t.Context(), 6<<20); !errors.Is(err, ErrFull) || time.Since(began) > 0 {
			t.Errorf("more wait than may: %v", err)
		}
		first()
		for range waiting {
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		all := hold(1 << 40) // is alone
		hold(small)()        // needs no room
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Hold(ctx, 1<<20); !errors.Is(err, context.Canceled) {
			t.Errorf("when the question has ended: %v", err)
		}
		all()
		hold(10 << 20)()
	})
}

// slowly is a client that fails after so many bytes.
type slowly struct {
	header    http.Header
	got       bytes.Buffer
	takes     int
	deadlines []time.Time
	pieces    []int
}

func (s *slowly) Header() http.Header { return s.header }
func (s *slowly) WriteHeader(int)     {}

func (s *slowly) SetWriteDeadline(t time.Time) error {
	s.deadlines = append(s.deadlines, t)
	return nil
}

func (s *slowly) Write(b []byte) (int, error) {
	s.pieces = append(s.pieces, len(b))
	if s.got.Len()+len(b) > s.takes {
		return 0, errors.New("deadline")
	}
	time.Sleep(20 * time.Second)
	return s.got.Write(b)
}

func TestAnswersAreSentInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := bytes.Repeat([]byte("0123456789abcdef"), 3*piece/16+1)
		s := &slowly{takes: 1 << 30}
		began := time.Now()
		w := NewWriter(s)
		for range 5 {
			if n, err := w.Write(body); err != nil || n != len(body) {
				t.Fatal(n, err)
			}
		}
		if !bytes.Equal(s.got.Bytes(), bytes.Repeat(body, 5)) || len(s.pieces) != 20 {
			t.Errorf("%d bytes in pieces %v", s.got.Len(), s.pieces)
		}
		for i, at := range s.deadlines {
			if want := min(time.Duration(i)*20*time.Second+pieceTime, longest); at.Sub(began) != want {
				t.Errorf("deadline %d is %v, want %v", i, at.Sub(began), want)
			}
		}
		s = &slowly{takes: 2 * piece}
		if n, err := NewWriter(s).Write(body); err == nil || n != 2*piece || len(s.pieces) != 3 {
			t.Errorf("%d bytes: %v, pieces %v", n, err, s.pieces)
		}
	})
}
