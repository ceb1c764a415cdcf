package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// SessionInfo is an open session as the API shows it.
type SessionInfo struct {
	ID      string `json:"id"` // the first 16 digits of the hash of its secret
	User    string `json:"user"`
	Created int64  `json:"created"`           // when it was logged in, log time in ms
	Expires int64  `json:"expires"`           // log time, ms, unless it is used
	Address string `json:"address,omitempty"` // where the login came from
	Current bool   `json:"current,omitempty"` // the one that asks
}

// Sessions returns the open sessions of the user, or of all when user is "", the newest first.
func (s *Service) Sessions(user string) []SessionInfo {
	var list []SessionInfo
	s.meta.Scan(BucketSessions, "", func(key string, v Value) bool {
		var rec sessionRecord
		if json.Unmarshal(v.Data, &rec) == nil && len(key) >= idLen && !s.past(rec.Expires) && (user == "" || rec.User == user) {
			list = append(list, SessionInfo{ID: key[:idLen], User: rec.User, Created: rec.Created, Expires: rec.Expires, Address: rec.Address})
		}
		return true
	})
	slices.SortStableFunc(list, func(a, b SessionInfo) int { return int(min(max(b.Created-a.Created, -1), 1)) })
	return list
}

// EndSession ends the session named by its ID.
func (s *Service) EndSession(ctx context.Context, id string, by Principal) error {
	if !hexID.MatchString(id) {
		return fmt.Errorf("session id %.40q: want 16 hexadecimal digits: %w", id, ErrInvalid)
	}
	var ops []Op
	user := ""
	s.meta.Scan(BucketSessions, id, func(key string, v Value) bool {
		var rec sessionRecord
		if json.Unmarshal(v.Data, &rec) == nil {
			user = rec.User
		}
		ops = append(ops, Op{Delete: true, Bucket: BucketSessions, Key: key})
		return true
	})
	if len(ops) == 0 {
		return fmt.Errorf("session %s: %w", id, ErrNotFound)
	}
	if _, err := s.meta.Commit(ctx, Txn{Ops: ops, Audit: by.did("session.end", user, map[string]any{"session": id})}); err != nil {
		return fmt.Errorf("end session %s: %w", id, err)
	}
	return nil
}

// EndSessions ends all sessions of the user and returns how many there were.
func (s *Service) EndSessions(ctx context.Context, user string, by Principal) (int, error) {
	if _, _, ok := s.user(user); !ok {
		return 0, fmt.Errorf("user %.70s: %w", user, ErrNotFound)
	}
	return s.end(ctx, user, s.sessionsOf(user), "", by)
}

// EndOthers ends all sessions of the user but the one that asks, and returns how many there were.
func (s *Service) EndOthers(ctx context.Context, p Principal) (int, error) {
	if p.Kind != KindSession {
		return 0, fmt.Errorf("end other sessions: an API token has none: %w", ErrInvalid)
	}
	return s.end(ctx, p.Name, s.others(p), p.Key, p)
}

// end ends the sessions of the user that ops remove, and those that another node opened meanwhile; keep goes on.
func (s *Service) end(ctx context.Context, user string, ops []Op, keep string, by Principal) (int, error) {
	if len(ops) == 0 {
		return 0, nil
	}
	index, err := s.meta.Commit(ctx, Txn{Ops: ops, Audit: by.did("session.end", user, map[string]any{"sessions": len(ops)})})
	missed := 0
	if err == nil {
		missed, err = s.endMissed(ctx, user, index, keep)
	}
	if err != nil {
		return 0, fmt.Errorf("end sessions of %s: %w", user, err)
	}
	return len(ops) + missed, nil
}

// endMissed ends the sessions of the user that were opened up to the entry at index, but for keep, and returns how many.
// Whoever ends sessions names those that this node has applied; what another node opened a moment before it only sees
// once its own entry is applied.
func (s *Service) endMissed(ctx context.Context, user string, index uint64, keep string) (int, error) {
	var ops []Op
	s.meta.Scan(BucketSessions, "", func(key string, v Value) bool {
		var rec sessionRecord
		if key != keep && v.ModIndex <= index && json.Unmarshal(v.Data, &rec) == nil && rec.User == user {
			ops = append(ops, Op{Delete: true, Bucket: BucketSessions, Key: key})
		}
		return len(ops) < maxOps
	})
	if len(ops) == 0 {
		return 0, nil
	}
	if _, err := s.meta.Commit(ctx, Txn{Ops: ops}); err != nil {
		return 0, fmt.Errorf("end sessions that were opened at the same moment: %w", err)
	}
	return len(ops), nil
}

// others returns the removal of all sessions of the user but this one.
func (s *Service) others(p Principal) []Op {
	return slices.DeleteFunc(s.sessionsOf(p.Name), func(o Op) bool { return o.Key == p.Key })
}
