package systemtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// peerProcess is another log store that runs as a process of its own.
type peerProcess struct {
	title   string
	bin     string
	args    []string
	dir     string // of its log and of what it stores
	address string
	ready   string // a path that answers once it takes requests
	cmd     *exec.Cmd
	http    *http.Client
}

func (p *peerProcess) name() string         { return p.title }
func (p *peerProcess) client() *http.Client { return p.http }
func (p *peerProcess) pid() int             { return p.cmd.Process.Pid }

// data is the folder of what it stores.
func (p *peerProcess) data() string { return filepath.Join(p.dir, "data") }

func (p *peerProcess) stored(context.Context) (float64, error) {
	return float64(dirBytes(p.data())), nil
}

// start starts the process and returns when it takes requests.
func (p *peerProcess) start(ctx context.Context) error {
	p.http = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: corpusHosts}}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.bin, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.title, err)
	}
	err = until(ctx, time.Minute, func(ctx context.Context) error {
		_, err := p.get(ctx, p.ready)
		return err
	})
	if err != nil {
		_ = p.stop() // it never took a request
		said, _ := os.ReadFile(log.Name())
		err = fmt.Errorf("%s: %w\n%s", p.title, err, said[max(0, len(said)-2000):])
	}
	return err
}

func (p *peerProcess) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	end := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer end.Stop()
	_ = p.cmd.Wait() // it ends by the signal
	return nil
}

func (p *peerProcess) restart(ctx context.Context) error {
	if err := p.stop(); err != nil {
		return err
	}
	return p.start(ctx)
}

func (p *peerProcess) get(ctx context.Context, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+path, nil)
	if err != nil {
		return nil, err
	}
	return fetch(p.http, r)
}

// fetch returns the body of a good answer.
func fetch(client *http.Client, r *http.Request) ([]byte, error) {
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 256<<20))
	if err == nil && resp.StatusCode/100 != 2 {
		err = &answerError{resp.StatusCode, string(b[:min(len(b), 500)])}
	}
	return b, err
}
