package gateway

import (
	"context"

	"github.com/triward/triward/raftstate/command"
)

// propose proposes the commands in order, in as many entries as they need, and returns all results and the index of the
// last entry. When one is not taken, those before it stand: whoever repeats the request finds them done.
func (g *Gateway) propose(ctx context.Context, cmds []command.Command) (index uint64, results []command.Result, err error) {
	for _, group := range entries(cmds) {
		i, part, err := g.opts.Cluster.Propose(ctx, group...)
		if err != nil {
			return 0, nil, err
		}
		index, results = i, append(results, part...)
	}
	return index, results, nil
}

// entries splits commands into groups that each fit in one entry of the log. A command that fits in none is alone in its
// group, for the log to refuse.
func entries(cmds []command.Command) [][]command.Command {
	var groups [][]command.Command
	from, size := 0, command.Overhead
	for i := range cmds {
		n := cmds[i].Size()
		if i > from && (size+n > command.MaxEntry || i-from == command.MaxCommands) {
			groups = append(groups, cmds[from:i:i])
			from, size = i, command.Overhead
		}
		size += n
	}
	if from < len(cmds) {
		groups = append(groups, cmds[from:])
	}
	return groups
}
