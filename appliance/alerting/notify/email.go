package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/mail"
	"net/smtp"
	"os"
	"strings"

	"github.com/triward/triward/appliance/alerting/route"
)

const (
	mailBytes = 200 << 10
	smtpsPort = "465"
)

// email sends by SMTP. The gate is asked after the relay has taken sender and recipients, before the text goes out.
func (s *Sender) email(ctx context.Context, e *route.Email, m *Message, gate Gate) error {
	host, port, err := net.SplitHostPort(e.Smarthost)
	if err != nil {
		return fmt.Errorf("smarthost: %w", err)
	}
	conf, err := tlsConfig(e.TLS)
	if err != nil {
		return err
	}
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	conn, err := s.policy.dial(ctx, "tcp", e.Smarthost)
	if err != nil {
		return err
	}
	defer conn.Close()
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
	}
	if port == smtpsPort {
		conn = tls.Client(conn, conf)
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return fmt.Errorf("greeting of the relay: %w", err)
	}
	defer c.Close()
	if err := s.greet(c, e, conf, port); err != nil {
		return err
	}
	if err := s.deliver(ctx, c, e, m, gate); err != nil {
		return err
	}
	_ = c.Quit() // the message is taken: how the relay says goodbye changes nothing
	return nil
}

// greet says hello, turns on TLS and logs in as configured.
func (s *Sender) greet(c *smtp.Client, e *route.Email, conf *tls.Config, port string) error {
	hello := e.Hello
	if hello == "" {
		if hello, _ = os.Hostname(); hello == "" {
			hello = "localhost"
		}
	}
	if err := c.Hello(hello); err != nil {
		return fmt.Errorf("HELO: %w", err)
	}
	if port != smtpsPort && (e.RequireTLS == nil || *e.RequireTLS) {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errors.New("the relay offers no STARTTLS; set require_tls: false if the way to it is trusted")
		}
		if err := c.StartTLS(conf); err != nil {
			return fmt.Errorf("STARTTLS: %w", err)
		}
	}
	if e.AuthUsername == "" {
		return nil
	}
	ok, mechanisms := c.Extension("AUTH")
	if !ok {
		return errors.New("the relay offers no login; leave auth_username away")
	}
	var login smtp.Auth
	switch {
	case strings.Contains(mechanisms, "PLAIN"):
		host, _, _ := net.SplitHostPort(e.Smarthost)
		login = smtp.PlainAuth("", e.AuthUsername, string(e.AuthPassword), host)
	case strings.Contains(mechanisms, "LOGIN"):
		login = &loginAuth{e.AuthUsername, string(e.AuthPassword)}
	default:
		return fmt.Errorf("the relay offers the logins %s; PLAIN and LOGIN are known here", brief([]byte(mechanisms)))
	}
	if err := c.Auth(login); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return nil
}

// loginAuth is the mechanism LOGIN, the only one that some relays offer. It is used over TLS alone.
type loginAuth struct{ user, password string }

// Start implements smtp.Auth.
func (a *loginAuth) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if !server.TLS {
		return "", nil, errors.New("no TLS")
	}
	return "LOGIN", nil, nil
}

// Next implements smtp.Auth.
func (a *loginAuth) Next(said []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	if strings.HasPrefix(strings.ToLower(string(said)), "user") {
		return []byte(a.user), nil
	}
	return []byte(a.password), nil
}

func (s *Sender) deliver(ctx context.Context, c *smtp.Client, e *route.Email, m *Message, gate Gate) error {
	from, err := mail.ParseAddress(e.From)
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	to, err := mail.ParseAddressList(e.To)
	if err != nil {
		return fmt.Errorf("to: %w", err)
	}
	if err := c.Mail(from.Address); err != nil {
		return fmt.Errorf("the relay refused the sender: %w", err)
	}
	for _, one := range to {
		if err := c.Rcpt(one.Address); err != nil {
			return fmt.Errorf("the relay refused a recipient: %w", err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	if gate != nil {
		if err := gate(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrGate, err) // nothing was written: closing the connection drops it
		}
	}
	if _, err := w.Write(s.mail(e, from, to, m)); err != nil {
		return fmt.Errorf("send the text: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("the relay refused the text: %w", err)
	}
	return nil
}

// mail is the message as RFC 5322 has it. The dedup key is its Message-ID, so that a mailbox shows a double once.
func (s *Sender) mail(e *route.Email, from *mail.Address, to []*mail.Address, m *Message) []byte {
	list := make([]string, len(to))
	for i := range to {
		list[i] = to[i].String()
	}
	domain := from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", from.String()},
		{"To", strings.Join(list, ",\r\n ")},
		{"Subject", mime.QEncoding.Encode("utf-8", m.title(e.Language))},
		{"Date", s.now().Format("Mon, 02 Jan 2006 15:04:05 -0700")},
		{"Message-ID", "<" + m.Key + "@" + domain + ">"},
		{KeyHeader, m.Key},
		{"Auto-Submitted", "auto-generated"},
		{"X-Mailer", s.agent},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "base64"},
	} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	text := m.title(e.Language) + "\n\n" + m.body(e.Language, mailBytes, func(t string) string { return t })
	enc := base64.StdEncoding.EncodeToString([]byte(text))
	for len(enc) > 0 {
		n := min(76, len(enc))
		b.WriteString(enc[:n] + "\r\n")
		enc = enc[n:]
	}
	return b.Bytes()
}
