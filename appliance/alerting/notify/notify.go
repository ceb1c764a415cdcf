// Package notify sends a message about alerts to one receiver: by webhook in Alertmanager's form, by SMTP, and to the
// robots of DingTalk, WeCom and Feishu. It owns the forms of messages and what may be dialled.
//
// It sends once and says how that went; when to send, and again, is decided by the caller. Every message carries the
// caller's dedup key. It must not import anything of Triward but package route.
package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/triward/triward/appliance/alerting/route"
)

// Timeout is how long one attempt may take.
const Timeout = 5 * time.Second

// KeyHeader carries the dedup key over HTTP and in mails.
const KeyHeader = "X-Triward-Dedup-Key"

// Alert is an alert in a message. Times are milliseconds since 1970.
type Alert struct {
	Firing      bool
	Labels      map[string]string
	Annotations map[string]string
	StartsAt    int64
	EndsAt      int64 // 0 while it fires
	Fingerprint string
	URL         string // of the page that shows it
	AckedBy     string
	AssignedTo  string
}

// Message is what is said to a receiver.
type Message struct {
	Key         string // dedup key
	Receiver    string
	GroupKey    string
	GroupLabels map[string]string
	Escalation  bool
	Alerts      []Alert
	Truncated   int
	ExternalURL string
	Test        bool
	At          int64 // ms since 1970
}

// Firing counts the alerts that fire, those not listed included.
func (m *Message) Firing() int {
	n := m.Truncated
	for i := range m.Alerts {
		if m.Alerts[i].Firing {
			n++
		}
	}
	return n
}

// Status is firing or resolved.
func (m *Message) Status() string {
	if m.Firing() > 0 {
		return "firing"
	}
	return "resolved"
}

// ErrGate says that the message was not sent because the caller's gate did not open.
var ErrGate = errors.New("not sent: this node may no longer send it")

// Gate is asked immediately before the message is written. An error keeps it back.
type Gate func(ctx context.Context) error

// Sender sends messages. It is safe for concurrent use.
type Sender struct {
	policy Policy
	agent  string
	now    func() time.Time
}

// NewSender makes a sender that dials only what the policy allows. version names the program to receivers; now is the
// wall clock for signatures and mail dates (nil: time.Now).
func NewSender(policy Policy, version string, now func() time.Time) *Sender {
	if now == nil {
		now = time.Now
	}
	return &Sender{policy: policy, agent: "triward/" + version, now: now}
}

// Send makes one attempt, for at most Timeout. The error says what happened in words for an operator, without secrets.
func (s *Sender) Send(ctx context.Context, in *route.Integration, m *Message, gate Gate) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	var err error
	switch {
	case in.Webhook != nil:
		err = s.webhook(ctx, in.Webhook, m, gate)
	case in.Email != nil:
		err = s.email(ctx, in.Email, m, gate)
	case in.DingTalk != nil:
		err = s.dingTalk(ctx, in.DingTalk, m, gate)
	case in.WeCom != nil:
		err = s.weCom(ctx, in.WeCom, m, gate)
	case in.Feishu != nil:
		err = s.feishu(ctx, in.Feishu, m, gate)
	default:
		err = errors.New("the receiver has no way to be told")
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrGate) {
		return err
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", Timeout)
	}
	return plain(err)
}

// plain takes the address, which may hold a token, out of an HTTP client's error.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// StatusError is an HTTP answer that is no success.
type StatusError struct {
	Status int
	Said   string
}

// Error names the status and what was said.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("the receiver answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Status >= 300 && e.Status < 400 {
		text += "; redirects are not followed, set the final address"
	}
	if e.Said != "" {
		text += ": " + e.Said
	}
	return text
}
