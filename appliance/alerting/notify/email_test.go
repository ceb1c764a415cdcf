package notify

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/alerting/route"
)

// relay is an SMTP server that takes one connection after the other.
type relay struct {
	addr  string
	tls   *tls.Config // offers STARTTLS when set
	login string      // offers AUTH with this mechanism when set
	stop  string      // answers this command with a refusal

	mails chan string
	said  chan string // commands of each connection
	ca    string
}

func startRelay(t *testing.T, change func(*relay)) *relay {
	t.Helper()
	web := httptest.NewTLSServer(nil)
	web.Close()
	r := &relay{mails: make(chan string, 10), said: make(chan string, 10), ca: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))}
	r.tls = &tls.Config{Certificates: web.TLS.Certificates}
	if change != nil {
		change(r)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r.serve(conn)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return r
}

func (r *relay) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	say := func(text string) { fmt.Fprint(conn, text+"\r\n") }
	var commands []string
	defer func() { r.said <- strings.Join(commands, " ") }()
	say("220 relay")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		word := strings.ToUpper(strings.Fields(line + " x")[0])
		commands = append(commands, word)
		switch {
		case word == r.stop:
			say("550 not here")
		case word == "EHLO":
			_, secure := conn.(*tls.Conn)
			say("250-relay")
			if r.tls != nil && !secure {
				say("250-STARTTLS")
			}
			if r.login != "" {
				say("250-AUTH " + r.login)
			}
			say("250 8BITMIME")
		case word == "STARTTLS":
			say("220 go")
			conn = tls.Server(conn, r.tls)
			in = bufio.NewReader(conn)
		case word == "AUTH" && strings.Contains(line, "LOGIN"):
			for _, ask := range []string{"Username:", "Password:"} {
				say("334 " + base64.StdEncoding.EncodeToString([]byte(ask)))
				answer, err := in.ReadString('\n')
				if err != nil {
					return
				}
				text, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(answer))
				commands = append(commands, string(text))
			}
			say("235 ok")
		case word == "AUTH":
			say("235 ok")
		case word == "DATA":
			say("354 go")
			var text strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return // cut off: a relay drops what has no end
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(line)
			}
			r.mails <- text.String()
			say("250 taken")
		case word == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func mailTo(r *relay, change func(*route.Email)) *route.Integration {
	e := &route.Email{
		To: "Ops <ops@site.example>, boss@site.example", From: "Triward <triward@site.example>", Smarthost: r.addr, Language: "en",
		TLS: &route.TLS{CA: r.ca, ServerName: "example.com"},
	}
	if change != nil {
		change(e)
	}
	return &route.Integration{Name: "email/0", Email: e}
}

func TestMailByRelayWithSTARTTLS(t *testing.T) {
	r := startRelay(t, nil)
	if err := local().Send(t.Context(), mailTo(r, nil), message(), nil); err != nil {
		t.Fatal(err)
	}
	text := <-r.mails
	head, body, _ := strings.Cut(text, "\r\n\r\n")
	for _, want := range []string{
		"Message-ID: <k1@site.example>", "X-Triward-Dedup-Key: k1", "Subject: [FIRING:1] Hot", "From: \"Triward\" <triward@site.example>", "Auto-Submitted: auto-generated",
	} {
		if !strings.Contains(head, want) {
			t.Errorf("no %q in %s", want, head)
		}
	}
	plain, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\r\n", ""))
	if err != nil || !strings.Contains(string(plain), "太热了") || !strings.Contains(string(plain), "[RESOLVED] Hot (critical)") || !strings.Contains(string(plain), "room=attic") {
		t.Errorf("%v %s", err, plain)
	}
	if said := <-r.said; said != "EHLO STARTTLS EHLO MAIL RCPT RCPT DATA QUIT" {
		t.Error(said)
	}
}

func TestMailVariants(t *testing.T) {
	no := false
	for name, c := range map[string]struct {
		relay func(*relay)
		mail  func(*route.Email)
		want  string // error
		said  string
	}{
		"plain relay":      {func(r *relay) { r.tls = nil }, func(e *route.Email) { e.RequireTLS = &no }, "", "EHLO MAIL RCPT RCPT DATA QUIT"},
		"no TLS offered":   {func(r *relay) { r.tls = nil }, nil, "offers no STARTTLS", ""},
		"foreign CA":       {nil, func(e *route.Email) { e.TLS = nil }, "STARTTLS", ""},
		"login LOGIN":      {func(r *relay) { r.login = "LOGIN" }, func(e *route.Email) { e.AuthUsername, e.AuthPassword = "u", "p" }, "", "EHLO STARTTLS EHLO AUTH u p MAIL RCPT RCPT DATA QUIT"},
		"login PLAIN":      {func(r *relay) { r.login = "PLAIN LOGIN" }, func(e *route.Email) { e.AuthUsername, e.AuthPassword = "u", "p" }, "", "EHLO STARTTLS EHLO AUTH MAIL RCPT RCPT DATA QUIT"},
		"no login offered": {nil, func(e *route.Email) { e.AuthUsername = "u" }, "offers no login", ""},
		"refused sender":   {func(r *relay) { r.stop = "MAIL" }, nil, "refused the sender", ""},
		"refused receiver": {func(r *relay) { r.stop = "RCPT" }, nil, "refused a recipient", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, c.relay)
			err := local().Send(t.Context(), mailTo(r, c.mail), message(), nil)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatal(err)
			}
			if said := <-r.said; c.said != "" && said != c.said {
				t.Error(said)
			}
		})
	}
}

func TestMailIsHeldBackByTheGate(t *testing.T) {
	r := startRelay(t, nil)
	err := local().Send(t.Context(), mailTo(r, nil), message(), func(context.Context) error { return errors.New("deposed") })
	if !errors.Is(err, ErrGate) {
		t.Fatal(err)
	}
	<-r.said
	if len(r.mails) != 0 {
		t.Error("the mail was taken")
	}
}
