package appliance

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
)

// listenerCert is the certificate of a listener that has one of its own; nothing stands for the node's.
type listenerCert struct {
	name   string // the key of the configuration
	of     func(*ListenConfig) ListenTLS
	loaded atomic.Pointer[tls.Certificate]
}

// read returns the certificate of the configuration's files, nil when it names none.
func (c *listenerCert) read(l *ListenConfig) (*tls.Certificate, error) {
	t := c.of(l)
	if t.Cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: load certificate: %w", c.name, err)
	}
	return &pair, nil
}

func newListenerCerts() []*listenerCert {
	return []*listenerCert{
		{name: "listen.agents.tls", of: func(l *ListenConfig) ListenTLS { return l.Agents.TLS }},
		{name: "listen.http.tls", of: func(l *ListenConfig) ListenTLS { return l.HTTP.TLS }},
	}
}

// Reload takes over what of a configuration can change while the node runs: log.level, and the certificate files of
// the listeners, which are read anew. It logs what must wait for the next start. When something is wrong with the new
// configuration, nothing changes. Calls must not overlap.
func (a *App) Reload(load func() (Config, error)) error {
	notifyReloading(a.log)
	defer notifySystemd(a.log, "READY=1")
	next, err := load()
	if err != nil {
		return err
	}
	pairs := make([]*tls.Certificate, len(a.certs))
	for i, c := range a.certs {
		if pairs[i], err = c.read(&next.Listen); err != nil {
			return err
		}
	}
	for i, c := range a.certs {
		c.loaded.Store(pairs[i])
	}
	SetLevel(a.level, next.Log.Level)
	a.log.Info("configuration is read anew", "log.level", next.Log.Level)
	if later := waiting(a.given, next); len(later) > 0 {
		a.log.Warn("these keys take effect at the next start of the node", "keys", later)
	}
	return nil
}

// SetLevel sets a level to what log.level says. The configuration was checked.
func SetLevel(v *slog.LevelVar, text string) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(text))
	v.Set(level)
}

// waiting are the keys that differ and that Reload does not take over.
func waiting(running, next Config) []string {
	for _, c := range []*Config{&running, &next} {
		c.Log.Level = ""
		for _, t := range []*ListenTLS{&c.Listen.Agents.TLS, &c.Listen.HTTP.TLS} {
			t.Cert, t.Key = "", ""
		}
	}
	return differing("", reflect.ValueOf(running), reflect.ValueOf(next))
}

func differing(path string, a, b reflect.Value) []string {
	if a.Kind() != reflect.Struct {
		if reflect.DeepEqual(a.Interface(), b.Interface()) {
			return nil
		}
		return []string{path}
	}
	var keys []string
	for i := range a.NumField() {
		keys = append(keys, differing(joinPath(path, yamlKey(a.Type().Field(i))), a.Field(i), b.Field(i))...)
	}
	return keys
}
