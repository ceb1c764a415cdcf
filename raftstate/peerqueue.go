package raftstate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/verdicts"
)

// queueDir is the directory, below the data directory, of what is kept for readers of the log, verdictsName the file in it
// that says what became of the entries.
const (
	queueDir     = "queue"
	verdictsName = "verdicts.db"
)

// openVerdicts opens what is known of the entries that the state holds.
func (n *Node) openVerdicts() (err error) {
	n.fsm.verdicts, err = verdicts.Open(filepath.Join(n.cfg.DataDir, queueDir, verdictsName), n.mark.Load().Index, n.log)
	if err != nil {
		return refused("verdicts", err)
	}
	if why := n.fsm.verdicts.SetAside(); why != nil {
		place := filepath.Join(queueDir, verdictsName)
		n.noteDamaged(place, why)
		n.noteMended(place)
	}
	return nil
}

// Entries as one node serves them to another (callEntries):
//
//	version byte (1), uvarint n, each entry:
//	  uvarint index, uvarint term, type byte, time it was appended (varint nanoseconds since 1970),
//	  judged byte, verdict and content with their lengths, crc32c of all that before (4 bytes, little endian)
//
// The answer is at most maxServed bytes and an entry long; a call asks for one entry at least.
const (
	entriesVersion = 1
	maxServed      = 768 << 10
	maxVerdict     = 512 << 10 // bytes of one that are served; of a longer one the peer says that it does not know it
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// beginsError says that a member's log begins behind the entry that was asked for.
type beginsError struct {
	peer  string
	first uint64
}

func (e *beginsError) Error() string {
	return fmt.Sprintf("the log of node %s begins at entry %d", e.peer, e.first)
}

// codeBegins is the code of a refusal whose message is the first entry that there is.
const codeBegins = "begins"

// serveEntries answers a member that reads the log from this node.
func (n *Node) serveEntries(body []byte) ([]byte, error) {
	r := wire.NewReader(body, command.ErrMalformed)
	from, limit, size := r.Uvarint("first entry"), r.Number("count", maxQueueEntries), r.Number("bytes", 1<<32)
	if err := r.End("the request"); err != nil {
		return nil, err
	}
	var entries []byte
	count := uint64(0)
	next, err := n.eachEntry(from, int(max(1, limit)), int64(min(size, maxServed)), func(l *raft.Log) error {
		verdict, judged := n.fsm.verdicts.Get(l.Index)
		if len(verdict) > maxVerdict {
			verdict, judged = nil, false
		}
		if count > 0 && len(entries)+len(l.Data)+len(verdict) > maxServed {
			return errServed
		}
		entries = appendServed(entries, l, verdict, judged)
		count++
		return nil
	})
	switch {
	case count > 0:
	case errors.Is(err, ErrGone):
		return nil, &forward.RemoteError{Code: codeBegins, Message: strconv.FormatUint(next, 10)}
	case err != nil:
		return nil, err
	default: // not applied here yet
		return nil, &forward.RemoteError{Code: codeBegins, Message: "0"}
	}
	return append(binary.AppendUvarint([]byte{entriesVersion}, count), entries...), nil
}

// errServed ends an answer that is long enough.
var errServed = errors.New("the answer is full")

func appendServed(dst []byte, l *raft.Log, verdict []byte, judged bool) []byte {
	from := len(dst)
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, l.Index), l.Term)
	dst = append(dst, byte(l.Type))
	at := int64(0)
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	dst = binary.AppendVarint(dst, at)
	if judged {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	dst = wire.AppendString(dst, verdict)
	dst = wire.AppendString(dst, l.Data)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[from:], castagnoli))
}

// queuePeers are the other members, the one that served entries last first.
func (n *Node) queuePeers() (ids []string) {
	last := ""
	if p := n.queuePeer.Load(); p != nil {
		last = *p
	}
	for _, s := range n.servers() {
		switch id := string(s.ID); id {
		case n.cfg.NodeID:
		case last:
			ids = append([]string{id}, ids...)
		default:
			ids = append(ids, id)
		}
	}
	return ids
}

// entriesTimeout bounds how long one member may take to serve entries.
const entriesTimeout = 5 * time.Second

// entriesFrom is logsFrom for readers of the queue.
func (n *Node) entriesFrom(ctx context.Context, peer string, from uint64, limit int, maxBytes int64) ([]QueueEntry, error) {
	served, err := n.logsFrom(ctx, peer, from, limit, maxBytes)
	if err != nil {
		return nil, err
	}
	entries := make([]QueueEntry, 0, len(served))
	for i := range served {
		s := &served[i]
		e, err := queueEntry(&s.log, s.verdict, s.judged)
		if err != nil {
			return nil, fmt.Errorf("entry %d of node %s: %w", s.log.Index, peer, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// servedLog is an entry as another member serves it.
type servedLog struct {
	log     raft.Log
	verdict []byte
	judged  bool
}

// logsFrom reads entries from another member and checks them: they follow one another from the one that was asked for,
// their terms do not fall and do not exceed that of this node's own state, and their bytes are what was sent.
func (n *Node) logsFrom(ctx context.Context, peer string, from uint64, limit int, maxBytes int64) ([]servedLog, error) {
	ctx, cancel := context.WithTimeout(ctx, entriesTimeout)
	defer cancel()
	ask := binary.AppendUvarint(nil, from)
	ask = binary.AppendUvarint(ask, uint64(min(max(1, limit), maxQueueEntries)))
	ask = binary.AppendUvarint(ask, uint64(min(max(1, maxBytes), maxServed)))
	answer, err := n.caller.Call(ctx, peer, callEntries, ask)
	if err != nil {
		var remote *forward.RemoteError
		if errors.As(err, &remote) && remote.Code == codeBegins {
			if first, err := strconv.ParseUint(remote.Message, 10, 64); err == nil {
				return nil, &beginsError{peer: peer, first: first}
			}
		}
		return nil, err
	}
	r := wire.NewReader(answer, command.ErrMalformed)
	if r.Byte("version") != entriesVersion {
		r.Fail("entries of an unknown version")
	}
	count := r.Count("count of entries", maxQueueEntries, 10)
	var entries []servedLog
	term := uint64(0)
	for i := range count {
		l, verdict, judged := readServed(&r, answer)
		if r.Err() != nil {
			break
		}
		if l.Index != from+uint64(i) || l.Term < term || l.Term > n.raft.Load().CurrentTerm() {
			return nil, fmt.Errorf("node %s serves entry %d of term %d behind entry %d of term %d", peer, l.Index, l.Term, from+uint64(i)-1, term)
		}
		term = l.Term
		entries = append(entries, servedLog{l, verdict, judged})
	}
	if err := r.End("the last entry"); err != nil {
		return nil, fmt.Errorf("entries of node %s: %w", peer, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("node %s serves no entries", peer)
	}
	return entries, nil
}

func readServed(r *wire.Reader, answer []byte) (l raft.Log, verdict []byte, judged bool) {
	from := len(answer) - r.Left()
	l.Index, l.Term = r.Uvarint("index"), r.Uvarint("term")
	l.Type = raft.LogType(r.Byte("type"))
	if at := r.Varint("time"); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	judged = r.Byte("judged") != 0
	verdict = r.Prefixed(maxVerdict, "verdict")
	l.Data = r.Prefixed(command.MaxEntry+command.MaxEntry, "content")
	if r.Err() != nil {
		return l, nil, false
	}
	want := crc32.Checksum(answer[from:len(answer)-r.Left()], castagnoli)
	if sum := r.Bytes(4, "checksum"); r.Err() == nil && binary.LittleEndian.Uint32(sum) != want {
		r.Fail("checksum of an entry that does not match")
	}
	return l, verdict, judged
}
