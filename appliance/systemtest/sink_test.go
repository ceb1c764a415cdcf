package systemtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// message is one that a sink was given whole.
type message struct {
	way    string // ops, boss or mail
	key    string // dedup key
	at     time.Time
	Status string `json:"status"`
	Alerts []struct {
		Status       string            `json:"status"`
		Labels       map[string]string `json:"labels"`
		GeneratorURL string            `json:"generatorURL"`
	} `json:"alerts"`
}

// subject names what the message's only alert is of.
func (m *message) subject() string {
	if len(m.Alerts) != 1 {
		return fmt.Sprintf("%d alerts", len(m.Alerts))
	}
	ls := m.Alerts[0].Labels
	return ls["alertname"] + " " + ls["round"]
}

// alertID is the id of the message's only alert, by the address of its page.
func (m *message) alertID() string {
	if len(m.Alerts) != 1 {
		return ""
	}
	return m.Alerts[0].GeneratorURL[strings.LastIndexByte(m.Alerts[0].GeneratorURL, '/')+1:]
}

// sink is what receivers point at: two webhooks, a mail relay, one that never answers and one that sends elsewhere.
type sink struct {
	url, relay string
	done       chan struct{} // closed at the end

	mu      sync.Mutex
	got     []message
	news    chan struct{} // closed and replaced at every message
	held    chan struct{} // when set, the next message is kept without an answer, and this is closed when it is there
	release chan struct{}
	hung    int
	strayed int // requests that followed a redirect
}

func newSink(t *testing.T) *sink { return newSinkAt(t, "127.0.0.1") }

// newSinkAt listens at an address that the nodes reach.
func newSinkAt(t *testing.T, host string) *sink {
	t.Helper()
	s := &sink{done: make(chan struct{}), news: make(chan struct{})}
	web, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	relay, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s.url, s.relay = "http://"+web.Addr().String(), relay.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ops", s.webhook)
	mux.HandleFunc("POST /boss", s.webhook)
	mux.HandleFunc("POST /hang", func(_ http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.hung++
		s.mu.Unlock()
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
	})
	mux.Handle("POST /away", http.RedirectHandler("/stray", http.StatusTemporaryRedirect))
	mux.HandleFunc("/stray", func(http.ResponseWriter, *http.Request) {
		s.mu.Lock()
		s.strayed++
		s.mu.Unlock()
	})
	server := &http.Server{Handler: mux}
	var work sync.WaitGroup
	work.Go(func() { _ = server.Serve(web) })
	work.Go(func() {
		for {
			conn, err := relay.Accept()
			if err != nil {
				return
			}
			work.Go(func() { s.mail(conn) })
		}
	})
	t.Cleanup(func() {
		close(s.done)
		_ = server.Close()
		_ = relay.Close()
		work.Wait()
	})
	return s
}

// webhook takes a message. One that was cut off is none.
func (s *sink) webhook(_ http.ResponseWriter, r *http.Request) {
	m := message{way: strings.TrimPrefix(r.URL.Path, "/"), key: r.Header.Get("X-Triward-Dedup-Key")}
	if json.NewDecoder(r.Body).Decode(&m) != nil {
		return
	}
	s.take(m)
	s.mu.Lock()
	held, release := s.held, s.release
	s.held = nil
	s.mu.Unlock()
	if held != nil {
		close(held)
		select {
		case <-release:
		case <-s.done:
		}
	}
}

func (s *sink) take(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.at = time.Now()
	s.got = append(s.got, m)
	close(s.news)
	s.news = make(chan struct{})
}

// hold keeps the next webhook without an answer: taken is closed when it is there, release lets it be answered.
func (s *sink) hold() (taken <-chan struct{}, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held, s.release = make(chan struct{}), make(chan struct{})
	mine := s.release
	return s.held, sync.OnceFunc(func() {
		s.mu.Lock()
		s.held = nil
		s.mu.Unlock()
		close(mine)
	})
}

// messages returns what came so far, and what is closed when more has come.
func (s *sink) messages() ([]message, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got), s.news
}

// mail speaks as much SMTP as a relay without TLS and login must.
func (s *sink) mail(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	in := bufio.NewReader(conn)
	say := func(text string) { fmt.Fprint(conn, text+"\r\n") }
	say("220 relay")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch word, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " "); word {
		case "EHLO", "HELO":
			say("250 relay")
		case "DATA":
			say("354 go on")
			var text strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return // a relay drops what has no end
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(line)
			}
			letter, err := mail.ReadMessage(strings.NewReader(text.String()))
			if err != nil {
				say("554 no mail")
				continue
			}
			s.take(message{way: "mail", key: letter.Header.Get("X-Triward-Dedup-Key")})
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}
