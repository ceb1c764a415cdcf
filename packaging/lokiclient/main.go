//go:build ignore

// Command lokiclient sends the lines of its standard input to a Loki with Grafana's client library, as programs do that
// embed it. It is for tests only and is built with packaging/peers.mod (hence the build tag).
//
//	lokiclient -url https://node:8443/loki/api/v1/push -token FILE -ca FILE < lines
//
// It ends when all lines were acknowledged, with an error when the library gave some up.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/grafana/loki-client-go/loki"
	"github.com/grafana/loki-client-go/pkg/backoff"
	"github.com/grafana/loki-client-go/pkg/urlutil"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "lokiclient:", err)
		os.Exit(1)
	}
}

func run() error {
	var url urlutil.URLValue
	flag.Var(&url, "url", "where to push")
	token := flag.String("token", "", "file with the token")
	ca := flag.String("ca", "", "file with the CA")
	flag.Parse()
	client, err := loki.New(loki.Config{
		URL: url, BatchWait: 200 * time.Millisecond, BatchSize: 16 << 10, Timeout: 10 * time.Second,
		BackoffConfig: backoff.BackoffConfig{MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Second, MaxRetries: 600},
		Client:        config.HTTPClientConfig{BearerTokenFile: *token, TLSConfig: config.TLSConfig{CAFile: *ca}},
	})
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := client.Handle(model.LabelSet{"job": "lokiclient"}, time.Now(), in.Text()); err != nil {
			return err
		}
	}
	client.Stop() // sends what is left
	if err := in.Err(); err != nil {
		return err
	}
	return dropped()
}

// dropped asks the library's own counters whether it gave anything up.
func dropped() error {
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if n := m.GetCounter().GetValue(); f.GetName() == "promtail_dropped_entries_total" && n > 0 {
				return fmt.Errorf("%v lines were given up", n)
			}
		}
	}
	return nil
}
