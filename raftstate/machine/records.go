package machine

import (
	"fmt"
	"strconv"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// BucketHeartbeats holds for each agent {"at": log time in milliseconds, "status": what it said}.
const BucketHeartbeats = "heartbeats"

func (m *Machine) openEpoch(tx *meta.Tx, c command.Command, r *command.Result) error {
	o, err := command.DecodeOpenEpoch(c)
	if err != nil {
		return err
	}
	switch tx.EpochState(o.Agent, o.Epoch) {
	case meta.EpochOpen:
		return nil
	case meta.EpochClosed:
		r.Status = command.StatusEpochClosed
		return nil
	}
	switch {
	case m.tooManyAgents(tx, o.Agent, r):
	case tx.ClosedEpochs(o.Agent) >= m.lim.ClosedEpochs:
		r.Status = command.StatusLimit
		r.Detail = fmt.Sprintf("agent %s has closed %d epochs: enrol it again under a new id", o.Agent, m.lim.ClosedEpochs)
	default:
		tx.OpenEpoch(o.Agent, o.Epoch)
	}
	return nil
}

func (m *Machine) tooManyAgents(tx *meta.Tx, agent string, r *command.Result) bool {
	if tx.HasAgent(agent) || tx.AgentCount() < m.lim.Agents {
		return false
	}
	r.Status = command.StatusLimit
	r.Detail = fmt.Sprintf("the cluster knows %d agents, which is the most it takes", m.lim.Agents)
	return true
}

// registerSeries gives ids to label sets: all of them or none.
func (m *Machine) registerSeries(tx *meta.Tx, c command.Command, r *command.Result) error {
	reg, err := command.DecodeRegisterSeries(c)
	if err != nil {
		return err
	}
	if m.tooManyAgents(tx, reg.Agent, r) {
		return nil
	}
	ids := make([]uint64, len(reg.Series))
	fresh := make(map[string]int)  // key of a set not registered to its place in keys
	place := make([]int, len(ids)) // of the sets without an id: place in keys
	var keys [][]byte
	for i, ls := range reg.Series {
		if err := wire.CheckSeriesLabels(ls); err != nil {
			r.Refuse(i, command.Bounded(err.Error()))
			continue
		}
		key := ls.AppendKey(nil)
		id, owner, ok := tx.FindSeries(key)
		switch {
		case ok && owner != reg.Agent:
			r.Refuse(i, command.Bounded("these labels are a series of agent "+owner))
		case ok:
			ids[i] = id
		default:
			at, again := fresh[string(key)]
			if !again {
				at = len(keys)
				fresh[string(key)] = at
				keys = append(keys, key)
			}
			place[i] = at
		}
	}
	if r.Rejected > 0 {
		r.Status, r.Detail = command.StatusInvalid, "no series was registered, because of the items named"
		return nil
	}
	if len(keys) > 0 {
		if m.tooManySeries(tx, reg.Agent, len(keys), r) {
			return nil
		}
		first := tx.AllotSeries(reg.Agent, keys)
		for i := range ids {
			if ids[i] == 0 {
				ids[i] = first + uint64(place[i])
			}
		}
	}
	r.IDs, r.Accepted = ids, uint32(len(keys))
	r.Duplicates = uint32(len(ids) - len(keys))
	return nil
}

func (m *Machine) tooManySeries(tx *meta.Tx, agent string, more int, r *command.Result) bool {
	if n := tx.AgentSeries(agent); n+more > m.lim.SeriesPerAgent {
		r.Status = command.StatusLimit
		r.Detail = fmt.Sprintf("agent %s has %d series, %d more would exceed the limit of %d per agent", agent, n, more,
			m.lim.SeriesPerAgent)
		return true
	}
	if n := m.store.SeriesCount(); n+more > m.lim.Series {
		r.Status = command.StatusLimit
		r.Detail = fmt.Sprintf("the cluster has %d series, %d more would exceed its limit of %d", n, more, m.lim.Series)
		return true
	}
	return false
}

// forgetAgent forgets what was received of an agent. One that still has series is kept: they name it as their owner.
func forgetAgent(tx *meta.Tx, c command.Command, r *command.Result) error {
	agent, err := command.DecodeForgetAgent(c)
	if err != nil {
		return err
	}
	if n := tx.AgentSeries(agent); n > 0 {
		r.Status = command.StatusConflict
		r.Detail = fmt.Sprintf("agent %s has %d series: they go by themselves when they were idle long enough", agent, n)
		return nil
	}
	tx.ForgetAgent(agent)
	return nil
}

// collectMargin keeps a series a while longer than a sample of it could be taken. Entries that are applied together
// reach the stores together, after all of them were decided on: a series whose last sample is in the same group must
// still be there.
const collectMargin = 3600 * 1000

// collectSeries removes series that hold no sample late ones could still meet. A series in use is kept.
func collectSeries(tx *meta.Tx, c command.Command, r *command.Result) error {
	ids, err := command.DecodeCollectSeries(c)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if tx.RemoveSeries(id, tx.LogTime()-meta.LateWindow-collectMargin) {
			r.Accepted++
		} else {
			r.Rejected++
		}
	}
	return nil
}

// heartbeats notes what agents said of themselves. Whether that is JSON is the gateway's business: what Apply accepts
// must not hang on a release of a parser.
func heartbeats(tx *meta.Tx, c command.Command, r *command.Result) error {
	hs, err := command.DecodeHeartbeats(c)
	if err != nil {
		return err
	}
	var buf []byte
	for i := range hs {
		buf = append(buf[:0], `{"at":`...)
		buf = strconv.AppendInt(buf, tx.LogTime(), 10)
		buf = append(buf, `,"status":`...)
		buf = append(append(buf, hs[i].Status...), '}')
		tx.Put(BucketHeartbeats, hs[i].Agent, buf, 0)
		r.Accepted++
	}
	return nil
}

// metaTxn applies a transaction, its operations first and its audit records last, or changes nothing.
func (m *Machine) metaTxn(tx *meta.Tx, c command.Command, r *command.Result) error {
	t, err := command.DecodeMetaTxn(c)
	if err != nil {
		return err
	}
	for i := range t.Ops {
		if writesItself(t.Ops[i].Bucket) {
			return fmt.Errorf("operation %d: the state machine alone writes the bucket %s", i, t.Ops[i].Bucket)
		}
	}
	if err := checkAudit(t.Audit); err != nil {
		return err
	}
	var head audit.Head
	if len(t.Audit) > 0 {
		if head, err = auditHead(tx); err != nil {
			return err
		}
	}
	for i := range t.Compares {
		cmp := &t.Compares[i]
		v, ok := tx.Get(cmp.Bucket, cmp.Key)
		if ok && v.ModIndex != cmp.ModIndex || !ok && cmp.ModIndex != 0 {
			r.Status, r.Expected = command.StatusConflict, v.ModIndex
			r.Detail = command.Bounded(fmt.Sprintf("%s/%s was changed by entry %d, not %d", cmp.Bucket, cmp.Key,
				v.ModIndex, cmp.ModIndex))
			return nil
		}
	}
	for i := range t.Ops {
		op := &t.Ops[i]
		if op.Delete {
			tx.Delete(op.Bucket, op.Key)
		} else {
			tx.Put(op.Bucket, op.Key, op.Value, op.Expires)
		}
	}
	if len(t.Audit) > 0 {
		m.appendAudit(tx, head, t.Audit)
	}
	return nil
}
