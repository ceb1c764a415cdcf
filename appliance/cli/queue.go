package cli

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

type queueAnswer struct {
	FirstIndex    uint64 `json:"first_index"`
	LastIndex     uint64 `json:"last_index"`
	CommitIndex   uint64 `json:"commit_index"`
	AppliedIndex  uint64 `json:"applied_index"`
	Bytes         int64  `json:"bytes"`
	Segments      int    `json:"segments"`
	InFlightBytes int64  `json:"in_flight_bytes"`
	Topics        []struct {
		Name    string `json:"name"`
		Entries uint64 `json:"entries"`
	} `json:"topics"`
}

func newQueue(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "queue", Short: "Look at the durable queue, which is the Raft log", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	var form outputForm
	status := &cobra.Command{
		Use:   "status",
		Short: "Show what the queue holds and how far the node asked has applied it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := cl.get(c.Context(), "/v1/queue", nil, &raw); err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, raw)
			}
			var q queueAnswer
			if err := json.Unmarshal(raw, &q); err != nil {
				return fmt.Errorf("answer of /v1/queue: %w", err)
			}
			fmt.Fprintf(s.out, "entries    %d to %d, committed %d, applied %d\n", q.FirstIndex, q.LastIndex, q.CommitIndex, q.AppliedIndex)
			fmt.Fprintf(s.out, "on disk    %s in %d segments\n", bytesText(q.Bytes), q.Segments)
			fmt.Fprintf(s.out, "in flight  %s\n\n", bytesText(q.InFlightBytes))
			tab := newTable(s.out, "topic", "items held")
			for _, topic := range q.Topics {
				tab.row(topic.Name, strconv.FormatUint(topic.Entries, 10))
			}
			return tab.flush()
		},
	}
	form.flag(status)
	c.AddCommand(status)
	return c
}
