package appliance

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/appliance/pipeline"
)

// RedactionConfig says what is masked in lines and events before they are stored. It should be the same on all nodes: a
// line that Loki's clients repeat at another node would else not be found to be a repeat.
type RedactionConfig struct {
	Cards     bool     `yaml:"cards"`
	Passwords bool     `yaml:"passwords"`
	Tokens    bool     `yaml:"tokens"`
	Patterns  []string `yaml:"patterns"` // RE2
}

func (c *RedactionConfig) validate(bad func(path, format string, args ...any)) {
	if len(c.Patterns) > pipeline.MaxPatterns {
		bad("redaction.patterns", "%d patterns, at most %d are allowed: join some with '|'", len(c.Patterns), pipeline.MaxPatterns)
		return
	}
	for i, p := range c.Patterns {
		if err := pipeline.CheckPattern(p); err != nil {
			bad("redaction.patterns", "pattern %d (%.60q) %v", i+1, p, err)
		}
	}
}

func (c *RedactionConfig) redactor(reg prometheus.Registerer) (*pipeline.Redactor, error) {
	r, err := pipeline.NewRedactor(pipeline.Options{Cards: c.Cards, Passwords: c.Passwords, Tokens: c.Tokens, Patterns: c.Patterns}, reg)
	if err != nil {
		return nil, fmt.Errorf("redaction: %w", err)
	}
	return r, nil
}
